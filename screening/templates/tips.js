// What a mark stands for, beside the pointer; on a touch screen, after a tap.
"use strict";
{
  const tip = document.getElementById("tip"), GAP = 14;
  const show = event => {
    const mark = event.target.closest?.("[data-tip]");
    tip.hidden = !mark;
    if (!mark) return;
    tip.textContent = mark.dataset.tip;
    const left = Math.min(event.clientX + GAP, innerWidth - tip.offsetWidth - GAP);
    const top = event.clientY + GAP + tip.offsetHeight < innerHeight ?
      event.clientY + GAP : event.clientY - GAP - tip.offsetHeight;
    tip.style.transform = `translate(${Math.max(0, left)}px, ${Math.max(0, top)}px)`;
  };
  for (const name of ["pointermove", "pointerdown"]) document.addEventListener(name, show);
  document.addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });
}
