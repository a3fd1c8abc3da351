// What moves on the page: the cyclic shift, the index of a pair, the bias of a block, attention from a pixel.
"use strict";

const DATA = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const PADDING = 9;
let bytes; // all arrays, one after the other
let grey; // the photo, dark and without colours

// The values of an array from live_data, as bytes.
const values = (place) => bytes.subarray(place.at, place.at + place.shape.reduce((a, b) => a * b, 1));

async function unpack(text) {
  const raw = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const stream = new Blob([raw]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// ---- geometry: where a token is computed, and where the tokens of a window lie -------------------------------------

const wrap = (i, n) => ((i % n) + n) % n;

// The window and the place in it of a token (row, column), after padding and cyclic shift.
function placeOf(b, row, column) {
  const r = wrap(row - b.shift[0], b.padded[0]), c = wrap(column - b.shift[1], b.padded[1]);
  const across = b.padded[1] / b.window[1];
  const window = Math.floor(r / b.window[0]) * across + Math.floor(c / b.window[1]);
  return [window, (r % b.window[0]) * b.window[1] + (c % b.window[1])];
}

// The tokens [row, column] of a window, in order; padding lies outside the grid.
function tokensOf(b, window) {
  const across = b.padded[1] / b.window[1], found = [];
  const top = Math.floor(window / across) * b.window[0], left = (window % across) * b.window[1];
  for (let i = 0; i < b.window[0]; i++)
    for (let j = 0; j < b.window[1]; j++)
      found.push([wrap(top + i + b.shift[0], b.padded[0]), wrap(left + j + b.shift[1], b.padded[1])]);
  return found;
}

// A row of attention that sums to 1: of one head, or (head -1) averaged over those kept.
function row(b, head, window, query) {
  const [heads, windows, n] = b.attention.shape, all = values(b.attention);
  const result = new Float64Array(n);
  const chosen = head < 0 || heads === 1 ? [...Array(heads).keys()] : [head];
  for (const h of chosen) {
    const from = ((h * windows + window) * n + query) * n;
    let sum = 0;
    for (let k = 0; k < n; k++) sum += all[from + k];
    for (let k = 0; k < n; k++) result[k] += all[from + k] / sum / chosen.length;
  }
  return result;
}

// ---- attention and roll-out ----------------------------------------------------------------------------------------

// Where a head of a block looks from a token: one number per token of the grid.
function attention(b, head, token) {
  const map = new Float64Array(b.grid[0] * b.grid[1]);
  const [window, query] = placeOf(b, ...token);
  const weights = row(b, head, window, query);
  tokensOf(b, window).forEach(([r, c], k) => {
    if (r < b.grid[0] && c < b.grid[1]) map[r * b.grid[1] + c] += weights[k];
  });
  return map;
}

// Where a token has its information from, through all blocks up to one: one number per token of the first block's grid,
// and that block. Where the first blocks are too large for the page, it ends at the first that is not.
function rollout(upTo, token) {
  const blocks = DATA.blocks.slice(0, upTo + 1).filter((b) => b.attention);
  let above = blocks[blocks.length - 1];
  let flow = new Float64Array(above.grid[0] * above.grid[1]);
  flow[token[0] * above.grid[1] + token[1]] = 1;
  for (const b of blocks.reverse()) {
    if (b.stage !== above.stage) flow = unmerge(flow, above, b);
    const next = flow.map((v) => v / 2), n = b.window[0] * b.window[1];
    for (let window = 0; window < b.attention.shape[1]; window++) {
      const tokens = tokensOf(b, window).map(([r, c]) => (r < b.grid[0] && c < b.grid[1] ? r * b.grid[1] + c : -1));
      for (let query = 0; query < n; query++) {
        const weight = tokens[query] < 0 ? 0 : flow[tokens[query]] / 2;
        if (weight < 1e-12) continue;
        row(b, -1, window, query).forEach((a, k) => { if (tokens[k] >= 0) next[tokens[k]] += weight * a; });
      }
    }
    flow = next;
    above = b;
  }
  const sum = flow.reduce((a, v) => a + v, 0); // padding that takes part in attention carries weight off
  return [flow.map((v) => v / sum), above];
}

// Passes the weight of merged tokens on to those they were made of.
function unmerge(flow, above, below) {
  const result = new Float64Array(below.grid[0] * below.grid[1]);
  const step = [0, 1].map((a) => above.token[a] / below.token[a]);
  const parts = (axis, i) => Math.min(step[axis], below.grid[axis] - step[axis] * i);
  for (let r = 0; r < below.grid[0]; r++)
    for (let c = 0; c < below.grid[1]; c++) {
      const i = Math.floor(r / step[0]), j = Math.floor(c / step[1]);
      result[r * below.grid[1] + c] = flow[i * above.grid[1] + j] / (parts(0, i) * parts(1, j));
    }
  return result;
}

// ---- drawing -------------------------------------------------------------------------------------------------------

// Sizes a canvas for an area of height x width pixels of the image and returns its context, scaled to those.
function prepare(canvas, height, width) {
  const scale = Math.max(1, Math.ceil(720 / Math.max(width, height)));
  canvas.width = width * scale;
  canvas.height = height * scale;
  canvas.style.aspectRatio = Math.max(1 / 12, Math.min(12, width / height)); // what is more oblong is stretched
  const draw = canvas.getContext("2d");
  draw.setTransform(scale, 0, 0, scale, 0, 0);
  draw.imageSmoothingEnabled = false;
  draw.scaleOfPixels = scale;
  return draw;
}

// The photo as a canvas of its pixels, dark and without colours, for maps to stand out on.
function greyed(photo) {
  const [height, width] = DATA.image, canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const draw = canvas.getContext("2d");
  draw.drawImage(photo, 0, 0, width, height);
  const picture = draw.getImageData(0, 0, width, height), p = picture.data;
  for (let i = 0; i < p.length; i += 4) p.fill((0.55 * (p[i] + p[i + 1] + p[i + 2])) / 3, i, i + 3);
  draw.putImageData(picture, 0, 0);
  return canvas;
}

// A map of tokens over the greyed photo; the same mixing as swindow.explain.looking.overlay.
function overlay(draw, map, b, palette) {
  const [height, width] = DATA.image;
  draw.drawImage(grey, 0, 0);
  const top = map.reduce((a, v) => Math.max(a, v), 0) || 1;
  map.forEach((value, t) => {
    if (!value) return;
    const share = value / top, [r, g, blue] = palette[Math.round(255 * share)];
    draw.fillStyle = `rgba(${r},${g},${blue},${0.75 * Math.sqrt(share)})`;
    const y = Math.floor(t / b.grid[1]) * b.token[0], x = (t % b.grid[1]) * b.token[1];
    draw.fillRect(x, y, Math.min(b.token[1], width - x), Math.min(b.token[0], height - y));
  });
}

function outline(draw, x, y, width, height, colour, line) {
  draw.lineWidth = line / draw.scaleOfPixels;
  draw.strokeStyle = colour;
  draw.strokeRect(x, y, width, height);
}

// ---- chapter 3: the cyclic shift -----------------------------------------------------------------------------------

function drawShift() {
  const s = DATA.stages[$("shift-stage").selectedIndex], amount = Number($("shift-by").value);
  const [ph, pw] = s.padded.map((n, a) => n * s.token[a]);
  const [height, width] = DATA.image, draw = prepare($("shift"), ph, pw);
  const by = [0, 1].map((a) => Math.min(amount, s.shift[a]));
  const [dy, dx] = by.map((n, a) => n * s.token[a]);
  const labels = values(s.labels);
  draw.fillStyle = "#c8c8c8";
  draw.fillRect(0, 0, pw, ph);
  const photo = $("photo"), down = photo.naturalHeight / height, across = photo.naturalWidth / width;
  const [h, w] = s.grid.map((n, a) => Math.min(n * s.token[a], DATA.image[a])); // patches may leave out the rest
  for (const y of [0, ph])
    for (const x of [0, pw]) draw.drawImage(photo, 0, 0, w * across, h * down, x - dx, y - dy, w, h);
  for (let r = 0; r < s.padded[0]; r++)
    for (let c = 0; c < s.padded[1]; c++) {
      const label = labels[r * s.padded[1] + c];
      if (label === 0) continue;
      draw.globalAlpha = label === PADDING ? 1 : 0.45;
      draw.fillStyle = label === PADDING ? "#9a9a9a" : DATA.colours.regions[label];
      const y = wrap(r - by[0], s.padded[0]) * s.token[0], x = wrap(c - by[1], s.padded[1]) * s.token[1];
      draw.fillRect(x, y, s.token[1], s.token[0]);
    }
  draw.globalAlpha = 1;
  for (let y = 0; y < ph; y += s.window[0] * s.token[0])
    for (let x = 0; x < pw; x += s.window[1] * s.token[1]) {
      outline(draw, x, y, s.window[1] * s.token[1], s.window[0] * s.token[0], "black", 4);
      outline(draw, x, y, s.window[1] * s.token[1], s.window[0] * s.token[0], "white", 2);
    }
  const all = by.every((n, a) => n === s.shift[a]);
  $("shift-says").textContent = `rolled ${by[0]} of ${s.shift[0]} tokens up and ${by[1]} of ${s.shift[1]} left` +
    (all ? ": every computed window now holds whole irregular windows; where it holds several, the mask parts them" : "");
}

function startShift() {
  if (!DATA.stages.length) return;
  for (const s of DATA.stages) $("shift-stage").add(new Option(`stage ${s.number}`));
  const restart = () => {
    const s = DATA.stages[$("shift-stage").selectedIndex];
    $("shift-by").max = Math.max(...s.shift);
    $("shift-by").value = 0;
    drawShift();
  };
  $("shift-stage").addEventListener("change", restart);
  $("shift-by").addEventListener("input", drawShift);
  restart();
}

// ---- chapter 5: the index of a pair, the bias of a block -----------------------------------------------------------

function startIndex() {
  const [rows, columns] = DATA.small, grid = $("index-window");
  let pair = [[Math.min(2, rows - 1), Math.min(1, columns - 1)], [0, 0]], next = 0;
  const say = () => {
    const [q, k] = pair, dr = q[0] - k[0], dc = q[1] - k[1], wide = 2 * columns - 1;
    [...grid.children].forEach((cell, i) => {
      const at = [Math.floor(i / columns), i % columns].join();
      cell.className = (at === q.join() ? "query " : "") + (at === k.join() ? "key" : "");
    });
    $("index-says").textContent = `query (${q}) − key (${k}) = offset (${dr}, ${dc});  from 0: (${dr + rows - 1}, ` +
      `${dc + columns - 1});  ${dr + rows - 1} × ${wide} + ${dc + columns - 1} = row ${(dr + rows - 1) * wide + dc + columns - 1} of the table`;
  };
  grid.style.gridTemplateColumns = `repeat(${columns}, 3rem)`;
  for (let i = 0; i < rows * columns; i++) {
    const cell = document.createElement("button");
    cell.type = "button";
    cell.textContent = `${Math.floor(i / columns)},${i % columns}`;
    cell.addEventListener("click", () => {
      pair[next] = [Math.floor(i / columns), i % columns];
      next = 1 - next;
      say();
    });
    grid.append(cell);
  }
  say();
}

function drawBias() {
  const b = DATA.blocks[$("bias-block").selectedIndex], [heads, high, wide] = b.bias.shape, all = values(b.bias);
  $("bias").replaceChildren();
  for (let h = 0; h < heads; h++) {
    const item = document.createElement("figure"), canvas = document.createElement("canvas");
    canvas.width = wide;
    canvas.height = high;
    const draw = canvas.getContext("2d"), picture = draw.createImageData(wide, high);
    for (let i = 0; i < high * wide; i++)
      picture.data.set([...DATA.colours.viridis[all[h * high * wide + i]], 255], 4 * i);
    draw.putImageData(picture, 0, 0);
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `bias of head ${h + 1}`);
    const words = document.createElement("figcaption");
    words.textContent = `head ${h + 1}`;
    item.append(canvas, words);
    $("bias").append(item);
  }
  $("bias-says").textContent = `stage ${b.stage}, block ${b.number}: offsets −${(high - 1) / 2} to ${(high - 1) / 2} ` +
    `(rows) and −${(wide - 1) / 2} to ${(wide - 1) / 2} (columns); dark ${b.bias.low.toFixed(3)}, bright ${b.bias.high.toFixed(3)}`;
}

function startBias() {
  for (const b of DATA.blocks) $("bias-block").add(new Option(`stage ${b.stage}, block ${b.number}`));
  $("bias-block").selectedIndex = Math.min(1, DATA.blocks.length - 1);
  $("bias-block").addEventListener("change", drawBias);
  drawBias();
}

// ---- chapter 6: attention ------------------------------------------------------------------------------------------

let pixel = DATA.pixel;

function chosen() {
  const block = Number($("block").value), b = DATA.blocks[block];
  const token = pixel.map((p, a) => Math.floor(p / b.token[a]));
  return { block, b, token, head: Number($("head").value) };
}

function drawAttention() {
  const { block, b, token, head } = chosen(), [height, width] = DATA.image;
  const draw = prepare($("attention"), height, width), rolls = $("mode").value === "rollout";
  let map = null, of = b;
  if (b.attention && rolls) [map, of] = rollout(block, token);
  else if (b.attention) map = attention(b, head, token);
  if (map) overlay(draw, map, of, DATA.colours.inferno);
  else draw.drawImage(grey, 0, 0);
  const [window] = placeOf(b, ...token), kind = b.shift.some(Boolean) ? "SW-MSA" : "W-MSA";
  if (!rolls)
    for (const [r, c] of tokensOf(b, window))
      outline(draw, c * b.token[1], r * b.token[0], b.token[1], b.token[0], "rgba(86,180,233,.35)", 1);
  outline(draw, token[1] * b.token[1], token[0] * b.token[0], b.token[1], b.token[0], "#56B4E9", 4);
  const heads = b.attention ? b.attention.shape[0] : 0;
  $("head").disabled = rolls || heads < 2;
  const where = `row ${pixel[0]}, column ${pixel[1]} = token (${token}) of stage ${b.stage}, block ${b.number} (${kind})`;
  const back = of === DATA.blocks[0] || !rolls ? "" : ` back to stage ${of.stage}, block ${of.number}`;
  $("attention-says").textContent = map
    ? `${where}${back}; largest weight ${map.reduce((a, v) => Math.max(a, v), 0).toFixed(3)}`
    : `${where}: its attention is too large for this page`;
}

function fillHeads() {
  const b = DATA.blocks[Number($("block").value)], before = $("head").value;
  $("head").replaceChildren(new Option("all heads, averaged", -1));
  for (let h = 0; b.attention && b.attention.shape[0] > 1 && h < b.attention.shape[0]; h++)
    $("head").add(new Option(`head ${h + 1}`, h));
  $("head").value = [...$("head").options].some((o) => o.value === before) ? before : "-1";
  $("block-says").textContent = `stage ${b.stage}, block ${b.number}`;
}

function startAttention() {
  const canvas = $("attention"), [height, width] = DATA.image;
  $("block").max = DATA.blocks.length - 1;
  $("block").value = Math.min(1, DATA.blocks.length - 1);
  const move = (row, column) => {
    const b = DATA.blocks[0]; // patches may leave pixels out at the bottom and right
    const last = [height, width].map((n, a) => Math.min(n, b.grid[a] * b.token[a]) - 1);
    pixel = [row, column].map((p, a) => Math.max(0, Math.min(last[a], p)));
    drawAttention();
  };
  canvas.addEventListener("click", (e) => {
    const box = canvas.getBoundingClientRect();
    move(Math.floor(((e.clientY - box.top) / box.height) * height), Math.floor(((e.clientX - box.left) / box.width) * width));
  });
  canvas.addEventListener("keydown", (e) => {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[e.key];
    if (!step) return;
    e.preventDefault();
    const { b } = chosen();
    move(pixel[0] + step[0] * b.token[0], pixel[1] + step[1] * b.token[1]);
  });
  $("block").addEventListener("input", () => { fillHeads(); drawAttention(); });
  for (const id of ["head", "mode"]) $(id).addEventListener("input", drawAttention);
  fillHeads();
  drawAttention();
}

(async () => {
  bytes = await unpack(DATA.pack);
  await $("photo").decode();
  grey = greyed($("photo"));
  startShift();
  startIndex();
  startBias();
  startAttention();
  document.documentElement.dataset.ready = "yes";
})().catch((error) => {
  for (const output of document.querySelectorAll("output"))
    output.textContent = `this part needs a newer browser (${error}); the figures below do not`;
});
