"""Settings of every test: 8 host devices, and no silent broadcasting or promotion."""

import os

# More threads than devices: a device that waits in an all-reduce holds one, and with
# none left over the devices wait for each other for ever.
os.environ.setdefault("NPROC", "32")

import jax

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
