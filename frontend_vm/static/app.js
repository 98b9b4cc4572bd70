// The page: login, live status, settings, reboot. All data of the appliance is set as text, never as markup.

const REFRESH_MS = 2000;
const TIMEOUT_MS = 12000; // longer than the front-end waits for the backend (REQUEST_TIMEOUT of frontend_vm/link.py)
const LOGIN_TIMEOUT_MS = 22000; // a login may have to wait in the queue first (MAX_WAIT_S of frontend_vm/logins.py)
const SLOW_REBOOT_S = 90;

const $ = (id) => document.getElementById(id);
const views = ["login-view", "main-view", "wait-view"];

let timer = 0; // of the next refresh
let epoch = 0; // number of the present view: answers that were requested by an earlier one are dropped
let counters = new Map(); // "port side verdict" -> [frames, milliseconds]
let words = { verdicts: {}, faults: {}, ways: {}, vms: {} }; // labels and explanations by kind and name, from words.json
let portsShape = ""; // ports and verdicts of the present cards, as text
let cards = [];
let bootId = "";
let rootHash = "";
let lastTouch = Date.now();

class Problem extends Error {
  constructor(status, code, message, retryAfter) {
    super(message);
    this.status = status; // HTTP status; 0: no answer
    this.code = code;
    this.retryAfter = retryAfter;
  }
}

async function call(method, path, body, timeout = TIMEOUT_MS) {
  const request = { method, cache: "no-store", signal: AbortSignal.timeout(timeout) };
  if (body !== undefined) {
    request.headers = { "Content-Type": "application/json" };
    request.body = JSON.stringify(body);
  }
  let response;
  try {
    response = await fetch(`/api/v1/${path}`, request);
  } catch {
    throw new Problem(0, "silent", "The appliance does not answer.", 0);
  }
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) {
    const error = answer.error ?? {};
    const message = error.message ?? `The appliance answered ${response.status}.`;
    throw new Problem(response.status, error.code ?? "", message, Number(response.headers.get("Retry-After")) || 0);
  }
  return answer;
}

// ---- numbers as text

function duration(seconds) {
  const minutes = Math.floor(seconds / 60);
  const hours = Math.floor(minutes / 60);
  const days = Math.floor(hours / 24);
  if (days) return `${days} d ${hours % 24} h`;
  if (hours) return `${hours} h ${minutes % 60} min`;
  return minutes ? `${minutes} min ${Math.floor(seconds % 60)} s` : `${Math.floor(seconds)} s`;
}

function size(count) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
  let unit = 0;
  while (count >= 1024 && unit < units.length - 1) {
    count /= 1024;
    unit += 1;
  }
  return `${count.toFixed(unit < 2 || count >= 100 ? 0 : 1)} ${units[unit]}`;
}

const grouped = (count) => count.toLocaleString("en");

// ---- helpers

function change(node, text) {
  if (node.textContent !== text) node.textContent = text; // rewriting equal text would clear the user's selection
}

function setText(id, text) {
  change($(id), text);
}

function setPill(id, kind, text) {
  $(id).className = `pill ${kind}`;
  setText(`${id}-text`, text);
}

function setMessage(id, text, kind) {
  $(id).className = `message ${kind ?? ""}`;
  $(id).textContent = text;
}

function setBanner(text) {
  $("banner").hidden = text === "";
  if ($("banner").textContent !== text) $("banner").textContent = text;
}

function show(view) {
  epoch += 1;
  clearTimeout(timer);
  for (const name of views) $(name).hidden = name !== view;
  setBanner("");
  return epoch;
}

// ---- login

function showLogin(message) {
  if ($("reboot-dialog").open) $("reboot-dialog").close("cancel");
  show("login-view");
  document.title = "Sallyport";
  for (const id of ["login-form", "password-form", "hostname-form"]) $(id).reset();
  setMessage("hostname-message", "");
  setMessage("password-message", "");
  setMessage("login-message", message ?? "", "error");
  counters = new Map();
  $("login-password").focus();
}

async function logIn(event) {
  event.preventDefault();
  const user = $("login-user").value.trim();
  const password = $("login-password").value;
  if (!user || !password) {
    setMessage("login-message", "Enter user and password.", "error");
    (user ? $("login-password") : $("login-user")).focus();
    return;
  }
  $("login-button").disabled = true;
  setMessage("login-message", "");
  try {
    const session = await call("POST", "session", { user, password }, LOGIN_TIMEOUT_MS);
    sessionStorage.setItem("idle_s", String(session.idle_s));
    lastTouch = Date.now();
    $("login-button").disabled = false;
    showMain();
  } catch (problem) {
    $("login-password").value = "";
    if (problem.status === 429) {
      holdLogin(Math.max(1, problem.retryAfter));
      return;
    }
    setMessage("login-message", problem.status === 401 ? "Wrong user or password." : problem.message, "error");
    $("login-button").disabled = false;
    $("login-password").focus();
  }
}

function holdLogin(seconds) {
  if (seconds <= 0) {
    setMessage("login-message", "You may try again.");
    $("login-button").disabled = false;
    $("login-password").focus();
    return;
  }
  setMessage("login-message", `Too many attempts. Try again in ${seconds} s.`, "error");
  setTimeout(holdLogin, 1000, seconds - 1);
}

async function logOut(message) {
  await call("DELETE", "session").catch(() => {});
  showLogin(message);
}

// ---- status

function showMain() {
  const mine = show("main-view");
  setPill("live", "", "Connecting");
  $("hostname").focus();
  refresh(mine);
}

async function refresh(mine) {
  const idle = Number(sessionStorage.getItem("idle_s")) || 600;
  if ((Date.now() - lastTouch) / 1000 > idle) {
    // Else the refreshes would keep the session open for ever at an unattended desk.
    logOut("You were logged out after a time without activity.");
    return;
  }
  if (!document.hidden) {
    try {
      const [status, ports] = await Promise.all([call("GET", "status"), call("GET", "ports")]);
      if (mine !== epoch) return;
      setBanner("");
      setPill("live", "good", "Live");
      renderStatus(status);
      renderPorts(ports.ports);
    } catch (problem) {
      if (mine !== epoch) return;
      if (problem.status === 401) {
        showLogin("The session has ended.");
        return;
      }
      setPill("live", "bad", "Stale");
      setBanner(problem.status === 503 ? "Backend not reachable. Trying again …" : `${problem.message} Trying again …`);
    }
  }
  timer = setTimeout(refresh, REFRESH_MS, mine);
}

function renderUse(id, total, available) {
  setText(id, size(total - available));
  setText(`${id}-total`, `of ${size(total)}`);
  $(`${id}-meter`).value = total > 0 ? (total - available) / total : 0;
}

function renderStatus(status) {
  const machine = status.machine;
  bootId = status.boot_id;
  rootHash = status.image;
  document.title = `${status.hostname} – Sallyport`;
  setText("hostname", status.hostname);
  setText("product", `${status.product} ${status.version}`);
  setText("uptime", duration(status.uptime_s));
  setText("load", status.load_1m.toFixed(2));
  renderUse("memory", status.memory_total, status.memory_available);
  renderUse("data", status.data_total, status.data_available);
  $("storage").hidden = status.storage.text === "";
  setText("storage", status.storage.text);
  setText("version", status.version);
  setText("profile", status.profile);
  setText("engine", status.engine);
  setText("image", status.image.length > 24 ? `${status.image.slice(0, 12)}…${status.image.slice(-8)}` : status.image);
  $("image").title = status.image;
  setText("boot", status.boot_id);
  setText("web-fingerprint", status.web_fingerprint || "not known");
  setText("ssh-fingerprint", status.ssh_fingerprint || "not known");
  setPill("machine-state", machine.state === "running" ? "good" : "warn", machine.state);
  setText("accelerator", machine.accelerator);
  setText("accelerator-reason", machine.accelerator_reason);
  setText("machine-uptime", duration(machine.uptime_s));
  setText("machine-starts", grouped(machine.starts));
  setText("machine-exit", machine.last_exit || "none");
  setText("audit-state", status.audit.fault ? `${status.audit.state}: ${status.audit.fault}` : status.audit.state);
  setText("audit-head", `${grouped(status.audit.entries)} changes, ${status.audit.head.slice(0, 16)}…`);
  $("audit-head").title = `changes:${status.audit.entries}:${status.audit.head}`;
  $("hostname-input").placeholder = status.hostname;
}

function element(name, text, kind) {
  const made = document.createElement(name);
  made.textContent = text;
  if (kind) made.className = kind;
  return made;
}

// ---- the management port

// Names of rows that are not verdicts; no verdict can have them.
const WIRE = Symbol("wire");
const DROPPED = Symbol("dropped");

function wordsFor(kind, name) {
  return Object.hasOwn(words[kind], name) ? words[kind][name] : null; // null: the name itself is shown
}

async function loadWords() {
  words = await fetch("/words.json", { signal: AbortSignal.timeout(TIMEOUT_MS) }).then((answer) => answer.json());
  portsShape = ""; // the cards are rebuilt, with labels, at the next answer
}

/** Verdicts by name: `rx_` came in at the port, `tx_` came from the VM, all others count both directions together. */
function rowsOf(port) {
  const rows = new Map();
  for (const verdict of port.verdicts) {
    const side = { rx_: "in", tx_: "out" }[verdict.name.slice(0, 3)] ?? "both";
    const name = side === "both" ? verdict.name : verdict.name.slice(3);
    if (!rows.has(name)) rows.set(name, {});
    rows.get(name)[side] = verdict;
  }
  return rows;
}

/** One line of the table: a label, its name in the API, what it means, and one cell for each of `sides`. */
function makeRow(label, name, meaning, sides) {
  const row = document.createElement("tr");
  const head = element("th", "");
  head.scope = "row";
  // Labels in text, because narrow screens do not lay the table out as rows and columns.
  row.setAttribute("role", "row");
  head.setAttribute("role", "rowheader");
  head.append(element("span", label, "label"));
  if (name) head.append(" ", element("code", name));
  if (meaning) {
    head.title = meaning;
    head.append(element("small", meaning, "meaning"));
  }
  const cells = {};
  for (const side of sides) {
    cells[side] = element("td", "");
    cells[side].setAttribute("role", "cell");
    cells[side].append(element("span", ""), element("small", ""), element("small", ""));
    if (side === "both") cells[side].colSpan = 2;
  }
  row.append(head, ...Object.values(cells));
  return { row, cells };
}

/** Put counts into a cell: frames; small, bytes and, where there is a count before this one, frames per second. */
function fillCell(cell, key, counter) {
  const [frames, bytes, speed] = cell.children;
  if (!counter) {
    change(frames, "–");
    cell.title = "This datapath does not count it.";
    return;
  }
  const now = performance.now();
  const before = counters.get(key);
  counters.set(key, [counter.frames, now]);
  const grown = before ? counter.frames - before[0] : 0;
  const rate = grown > 0 ? (grown * 1000) / (now - before[1]) : 0;
  change(frames, grouped(counter.frames));
  change(bytes, counter.frames ? size(counter.bytes) : "");
  change(speed, rate > 0 ? `${rate.toFixed(rate < 10 ? 1 : 0)}/s` : "");
  cell.title = `${grouped(counter.bytes)} bytes`;
}

function makeCard(port) {
  const card = $("port-template").content.cloneNode(true).querySelector("article");
  const body = card.querySelector("tbody");
  const meaning = "Counters of the port's network interface.";
  const rows = new Map([[WIRE, makeRow("On the wire", "", meaning, ["in", "out"])]]);
  body.append(rows.get(WIRE).row);
  for (const [name, sides] of rowsOf(port)) {
    const said = wordsFor("verdicts", name);
    const made = makeRow(said?.[0] ?? name, said ? name : "", said?.[1], sides.both ? ["both"] : ["in", "out"]);
    rows.set(name, made);
    body.append(made.row);
    if (name === "passed") {
      rows.set(DROPPED, makeRow("Dropped", "", "", ["in", "out"]));
      rows.get(DROPPED).row.className = "group";
      body.append(rows.get(DROPPED).row);
    }
  }
  card.querySelector(".scroll").setAttribute("aria-label", `Frames at ${port.name}`);
  return { card, rows };
}

function setPart(card, kind, name) {
  const said = wordsFor(`${kind}s`, name);
  const strong = card.querySelector(`.port-${kind}`);
  change(strong, said?.[0] ?? name);
  strong.closest("li").title = said?.[1] ?? "";
  change(card.querySelector(`.port-${kind}-code`), said ? name : "");
}

function setSign(card, selector, good, text) {
  const pill = card.querySelector(selector);
  pill.className = `${selector.slice(1)} pill ${good ? "good" : "bad"}`;
  change(pill.querySelector(".word"), text);
}

function updateCard({ card, rows }, port) {
  change(card.querySelector(".port-name"), port.name);
  change(card.querySelector(".port-mac"), port.mac);
  setSign(card, ".port-carrier", port.carrier, port.carrier ? "Link up" : "No link");
  setPart(card, "way", port.way);
  setPart(card, "vm", port.vm);
  setSign(card, ".port-vm-up", port.vm_up, port.vm_up ? "Up" : "Down");

  const dropped = { in: { frames: 0, bytes: 0 }, out: { frames: 0, bytes: 0 } };
  const all = rowsOf(port);
  for (const [name, sides] of all) {
    if (name === "passed") continue;
    for (const side of ["in", "out"]) {
      dropped[side].frames += sides[side]?.frames ?? 0;
      dropped[side].bytes += sides[side]?.bytes ?? 0;
    }
  }
  all.set(WIRE, {
    in: { frames: port.rx_frames, bytes: port.rx_bytes },
    out: { frames: port.tx_frames, bytes: port.tx_bytes },
  });
  if (rows.has(DROPPED)) all.set(DROPPED, dropped);
  for (const [name, sides] of all) {
    const { row, cells } = rows.get(name);
    for (const side of Object.keys(cells)) {
      fillCell(cells[side], `${port.name} ${side} ${String(name)}`, sides[side]);
      cells[side].className = sides[side]?.frames ? "" : "zero";
    }
    const none = Object.values(sides).every((counter) => !counter.frames);
    row.classList.toggle("zero", none);
    row.classList.toggle("drop", !none && ![WIRE, "passed", DROPPED].includes(name));
  }

  const faults = card.querySelector(".faults");
  faults.hidden = port.faults.length === 0;
  faults.querySelector("ul").replaceChildren(...port.faults.map((fault) => {
    const item = element("li", `${grouped(fault.times)} × ${wordsFor("faults", fault.name) ?? "for another reason"} `);
    item.append(element("code", fault.name));
    return item;
  }));
}

function renderPorts(ports) {
  // Rebuilt only when the rows differ, so that tooltips, selection and focus survive a refresh.
  const shape = JSON.stringify(ports.map((port) => [port.name, port.verdicts.map((verdict) => verdict.name)]));
  if (shape !== portsShape) {
    portsShape = shape;
    cards = ports.map(makeCard);
    const nothing = element("p", "This appliance has no management port.", "muted");
    $("ports").replaceChildren(...(cards.length ? cards.map(({ card }) => card) : [nothing]));
  }
  ports.forEach((port, index) => updateCard(cards[index], port));
}

async function copyRootHash() {
  const label = await navigator.clipboard.writeText(rootHash).then(() => "Copied", () => "Failed");
  $("copy-button").textContent = label;
  setTimeout(() => { $("copy-button").textContent = "Copy"; }, 1500);
}

// ---- settings

async function submit(form, messageId, work) {
  const button = form.querySelector("button");
  button.disabled = true;
  setMessage(messageId, "");
  try {
    setMessage(messageId, await work(), "done");
    form.reset();
  } catch (problem) {
    if (problem.status === 401) showLogin("The session has ended.");
    else setMessage(messageId, problem.message, "error");
  } finally {
    button.disabled = false;
  }
}

function complain(inputId, messageId, text) {
  for (const input of $(inputId).form.querySelectorAll("input")) input.removeAttribute("aria-invalid");
  if (!text) return false;
  $(inputId).setAttribute("aria-invalid", "true");
  setMessage(messageId, text, "error");
  $(inputId).focus();
  return true;
}

function hostnameFault(name) {
  if (name === "") return "Enter a name.";
  if (/[^a-z0-9-]/.test(name)) return "Only a to z, 0 to 9 and the hyphen are possible.";
  if (name.startsWith("-") || name.endsWith("-")) return "A name cannot begin or end with a hyphen.";
  return name.length > 63 ? "The name is too long." : "";
}

function setHostname(event) {
  event.preventDefault();
  const hostname = $("hostname-input").value.trim();
  if (complain("hostname-input", "hostname-message", hostnameFault(hostname))) return;
  submit(event.target, "hostname-message", async () => {
    await call("PUT", "hostname", { hostname });
    setText("hostname", hostname);
    return `The host is now called ${hostname}.`;
  });
}

function setPassword(event) {
  event.preventDefault();
  const [old, wanted, again] = ["password-old", "password-new", "password-again"].map((id) => $(id).value);
  const say = (id, text) => complain(id, "password-message", text);
  if (say("password-old", old ? "" : "Enter the present password.")) return;
  if (say("password-new", [...wanted].length >= 12 ? "" : "Use at least 12 characters.")) return;
  if (say("password-again", wanted === again ? "" : "The two new passwords differ.")) return;
  submit(event.target, "password-message", async () => {
    await call("PUT", "password", { old, new: wanted });
    return "The password was changed.";
  });
}

// ---- reboot

async function reboot() {
  const before = bootId;
  $("reboot-button").disabled = true;
  try {
    await call("POST", "reboot");
  } catch (problem) {
    if (problem.status === 401) showLogin("The session has ended.");
    else if (problem.status !== 0) setBanner(problem.message);
    if (problem.status !== 0) return;
  } finally {
    $("reboot-button").disabled = false;
  }
  waitForReturn(before);
}

async function waitForReturn(before) {
  const mine = show("wait-view");
  const start = Date.now();
  let gone = false;
  $("wait-hint").hidden = true;
  $("wait-title").focus();
  setText("wait-text", "The appliance is going down …");
  setText("wait-seconds", "0");
  const clock = setInterval(() => {
    const seconds = Math.floor((Date.now() - start) / 1000);
    setText("wait-seconds", String(seconds));
    $("wait-hint").hidden = seconds < SLOW_REBOOT_S;
  }, 1000);
  while (mine === epoch) {
    await new Promise((resume) => { setTimeout(resume, REFRESH_MS); });
    const back = await call("GET", "health").then((health) => health.backend, () => false);
    if (!back) {
      gone = true;
      setText("wait-text", "Waiting for the appliance …");
      continue;
    }
    const boot = await call("GET", "status").then((status) => status.boot_id, (problem) => problem.status);
    // After its restart the front-end has no sessions and answers 401. Before the reboot, 401 would not mean that.
    if ((boot === 401 && gone) || (typeof boot === "string" && boot !== before)) {
      clearInterval(clock);
      if (boot === 401) showLogin();
      else showMain();
      if (boot === 401) setMessage("login-message", "The appliance is back.", "done");
      return;
    }
    if (boot === 401 && (Date.now() - start) / 1000 > SLOW_REBOOT_S) gone = true;
  }
  clearInterval(clock);
}

// ---- start

$("login-form").addEventListener("submit", logIn);
$("hostname-form").addEventListener("submit", setHostname);
$("password-form").addEventListener("submit", setPassword);
$("logout-button").addEventListener("click", () => logOut());
$("copy-button").addEventListener("click", copyRootHash);
$("reboot-button").addEventListener("click", () => $("reboot-dialog").showModal());
$("reboot-dialog").addEventListener("close", () => {
  const choice = $("reboot-dialog").returnValue;
  $("reboot-dialog").returnValue = "cancel";
  if (choice === "reboot") reboot();
});
for (const kind of ["pointerdown", "keydown", "wheel", "touchstart"]) {
  addEventListener(kind, () => { lastTouch = Date.now(); }, { passive: true });
}

loadWords().catch(() => {}); // without them, the names are shown
call("GET", "status").then(showMain, (problem) => {
  // The session may be valid although the backend does not answer now: the status view keeps trying.
  if (problem.status === 401) showLogin();
  else showMain();
});
