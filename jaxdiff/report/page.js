// A slider shows one picture at a time; without scripts all are shown in a row.
for (const strip of document.querySelectorAll(".strip")) {
  const slider = strip.previousElementSibling;
  const input = slider.querySelector("input");
  const pictures = [...strip.children];
  const show = () => {
    pictures.forEach((picture, i) => { picture.hidden = i !== input.valueAsNumber; });
    const chosen = pictures[input.valueAsNumber];
    slider.querySelector("output").value = chosen.querySelector("figcaption").textContent;
  };
  slider.hidden = false;
  strip.classList.add("single");
  input.addEventListener("input", show);
  show();
}
