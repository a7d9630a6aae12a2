// The crystal viewer: balls and sticks in parallel projection on a canvas, the farthest drawn first.
"use strict";
if (report.scenes.length) {
  const canvas = document.getElementById("crystal"), pen = canvas.getContext("2d");
  const list = document.getElementById("crystals"), about = document.getElementById("about");
  const legend = document.getElementById("legend");
  const BALL = 0.45, STICK = 0.11, SMALLEST = 0.3, LARGEST = 8;
  // A view along the first vector, from a little above and aside.
  const START = [[-0.35, 0.937, 0], [-0.16, -0.06, 0.985], [0.923, 0.345, 0.171]];
  let scene, turn = START, zoom = 1, reach = 1, waiting = false;

  const product = (a, b) => a.map(row => [0, 1, 2].map(j => row.reduce((sum, x, k) => sum + x * b[k][j], 0)));
  const turned = point => turn.map(row => row[0] * point[0] + row[1] * point[1] + row[2] * point[2]);
  const mixed = (colour, other, share) => "rgb(" + [1, 3, 5].map(at => Math.round(
    parseInt(colour.slice(at, at + 2), 16) * (1 - share) + other * share)).join() + ")";

  const paint = () => {
    waiting = false;
    const ratio = devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    const scale = zoom * 0.46 * Math.min(width, height) / reach;
    const place = ([x, y, z]) => [width / 2 + scale * x, height / 2 - scale * y, z];
    pen.scale(ratio, ratio);
    const balls = scene.balls.map(([kind, ...point]) => ({ kind, at: place(turned(point)) }));
    const items = balls.map(ball => ({ depth: ball.at[2], draw: () => paintBall(ball, scale) }));
    for (const [a, b] of scene.sticks) {
      const [from, to] = [balls[a], balls[b]];
      const middle = from.at.map((x, i) => (x + to.at[i]) / 2);
      for (const end of [from, to])
        items.push({
          depth: (end.at[2] + middle[2]) / 2,
          draw: () => paintLine(end.at, middle, 2 * STICK * scale, scene.elements[end.kind][2]),
        });
    }
    const ink = getComputedStyle(canvas).color;
    for (const edge of scene.edges) {
      const [from, to] = edge.map(point => place(turned(point)));
      items.push({ depth: (from[2] + to[2]) / 2, draw: () => paintLine(from, to, 1, ink) });
    }
    items.sort((a, b) => a.depth - b.depth).forEach(item => item.draw());
  };
  const paintLine = (from, to, width, colour) => {
    for (const [thickness, shade] of width > 2 ? [[width + 1, "rgba(0,0,0,.45)"], [width, colour]] : [[width, colour]]) {
      pen.beginPath();
      pen.moveTo(from[0], from[1]);
      pen.lineTo(to[0], to[1]);
      pen.lineWidth = thickness;
      pen.strokeStyle = shade;
      pen.stroke();
    }
  };
  const paintBall = ({ kind, at: [x, y] }, scale) => {
    const [, radius, colour] = scene.elements[kind], size = BALL * radius * scale;
    const shade = pen.createRadialGradient(x - size / 3, y - size / 3, size / 10, x, y, size);
    shade.addColorStop(0, mixed(colour, 255, 0.65));
    shade.addColorStop(0.45, colour);
    shade.addColorStop(1, mixed(colour, 0, 0.45));
    pen.beginPath();
    pen.arc(x, y, size, 0, 2 * Math.PI);
    pen.fillStyle = shade;
    pen.fill();
    pen.lineWidth = 0.8;
    pen.strokeStyle = "rgba(0,0,0,.5)";
    pen.stroke();
  };
  const draw = () => {
    if (!waiting) requestAnimationFrame(paint);
    waiting = true;
  };

  const rotate = (right, down) => {
    const [a, b] = [right / 110, down / 110];
    const around = [[Math.cos(a), 0, Math.sin(a)], [0, 1, 0], [-Math.sin(a), 0, Math.cos(a)]];
    const over = [[1, 0, 0], [0, Math.cos(b), Math.sin(b)], [0, -Math.sin(b), Math.cos(b)]];
    turn = product(over, product(around, turn));
    draw();
  };
  const enlarge = factor => {
    zoom = Math.min(LARGEST, Math.max(SMALLEST, zoom * factor));
    draw();
  };
  const reset = () => { turn = START; zoom = 1; draw(); };

  // One pointer rotates, two zoom; the wheel zooms once the picture has been clicked, so that it
  // does not hold up a reader who scrolls past.
  const pointers = new Map();
  const spread = () => {
    const [a, b] = [...pointers.values()];
    return Math.hypot(a.x - b.x, a.y - b.y) || 1;
  };
  canvas.addEventListener("pointerdown", event => {
    pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", event => {
    const last = pointers.get(event.pointerId);
    if (!last) return;
    const before = pointers.size === 2 ? spread() : 0;
    pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    if (before) enlarge(spread() / before);
    else if (pointers.size === 1) rotate(event.clientX - last.x, event.clientY - last.y);
  });
  for (const name of ["pointerup", "pointercancel"])
    canvas.addEventListener(name, event => pointers.delete(event.pointerId));
  canvas.addEventListener("wheel", event => {
    if (document.activeElement !== canvas) return;
    event.preventDefault();
    enlarge(Math.exp(-event.deltaY / 600));
  }, { passive: false });
  canvas.addEventListener("keydown", event => {
    const step = { ArrowLeft: [-12, 0], ArrowRight: [12, 0], ArrowUp: [0, -12], ArrowDown: [0, 12] }[event.key];
    if (step) rotate(...step);
    else if (event.key === "+" || event.key === "-") enlarge(event.key === "+" ? 1.2 : 1 / 1.2);
    else return;
    event.preventDefault();
  });

  const line = (name, value) => ["dt", "dd"].map((kind, i) => {
    const made = document.createElement(kind);
    made.textContent = [name, value][i];
    return made;
  });
  const key = ([symbol, , colour]) => {
    const item = document.createElement("li");
    item.appendChild(document.createElement("span")).style.background = colour;
    item.append(symbol);
    return item;
  };
  report.show = (index, scroll = false) => {
    const row = report.rows[index], [a, b, c, ...angles] = report.scenes[index].cell;
    scene = report.scenes[index];
    reach = Math.max(...scene.balls.map(([kind, ...point]) => Math.hypot(...point) + BALL * scene.elements[kind][1]),
      ...scene.edges.flat().map(point => Math.hypot(...point)));
    list.value = index;
    about.replaceChildren(...line("formula", report.typeset(row.formula)), ...line("space group", row.group_name),
      ...line("above the hull", `${report.signed(row.hull)} eV/atom`),
      ...(row.rescored === null ? [] : line("rescored", `${report.signed(row.rescored)} eV/atom`)), ...line("reference phases", report.say(row)),
      ...line("a, b, c", `${[a, b, c].map(x => x.toFixed(3)).join(", ")} Å`),
      ...line("α, β, γ", `${angles.map(x => x.toFixed(1)).join(", ")}°`), ...line("sample", row.sample));
    legend.replaceChildren(...scene.elements.map(key));
    document.getElementById("save").hidden = !scene.cif;
    reset();
    if (scroll) document.getElementById("structures").scrollIntoView();
  };
  const save = () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([scene.cif], { type: "chemical/x-cif" }));
    link.download = `${report.rows[list.value].sample}.cif`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  };
  const step = by => report.show((Number(list.value) + by + report.scenes.length) % report.scenes.length);
  const actions = { previous: () => step(-1), next: () => step(1), closer: () => enlarge(1.25), farther: () => enlarge(0.8), reset, save };
  for (const [name, action] of Object.entries(actions)) document.getElementById(name).addEventListener("click", action);
  list.addEventListener("change", () => report.show(Number(list.value)));
  new ResizeObserver(draw).observe(canvas);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  report.view = () => ({ turn, zoom });
  report.show(0);
}
