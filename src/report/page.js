"use strict";
(() => {
  const root = document.documentElement;
  const byId = (id) => document.getElementById(id);
  const rollouts = [...document.querySelectorAll("details.rollout")];

  // The rollouts that the filters leave.
  const texts = new Map();
  const textOf = (rollout) => {
    if (!texts.has(rollout)) texts.set(rollout, rollout.textContent.toLowerCase());
    return texts.get(rollout);
  };
  const fits = (rollout, words, batch, outcome) => {
    const { dataset } = rollout;
    if (batch && dataset.batch !== batch) return false;
    if (outcome === "tool error" && !("toolError" in dataset)) return false;
    if (outcome && outcome !== "tool error" && dataset.level !== outcome && dataset.failure !== outcome) return false;
    return words.every((word) => textOf(rollout).includes(word));
  };
  const filter = () => {
    const words = byId("find").value.toLowerCase().split(/\s+/).filter(Boolean);
    const batch = byId("by-batch").value;
    const outcome = byId("by-outcome").value;
    let shown = 0;
    for (const rollout of rollouts) {
      const fit = fits(rollout, words, batch, outcome);
      rollout.hidden = !fit;
      shown += fit ? 1 : 0;
    }
    byId("count").textContent = shown === rollouts.length ? `${shown} rollouts` : `${shown} of ${rollouts.length} rollouts`;
    byId("nothing").hidden = shown > 0;
  };
  const filters = byId("filters");
  if (filters) {
    filters.addEventListener("input", filter);
    filters.addEventListener("submit", (event) => event.preventDefault());
    // A browser may keep what was typed before the page was loaded again.
    filter();
  }

  // What tokens are coloured by.
  const colour = () => {
    const chosen = document.querySelector("input[name=colour]:checked");
    root.dataset.colour = chosen ? chosen.value : "change";
  };
  byId("colours")?.addEventListener("change", colour);
  colour();

  // One token at a time: by pointer, or by the arrow keys.
  const choose = (box, token) => {
    box.querySelector(".chosen")?.classList.remove("chosen");
    token.classList.add("chosen");
    const note = box.parentElement.querySelector(".token-note");
    if (note) note.textContent = `${JSON.stringify(token.textContent)}: ${token.dataset.n || "nothing recorded"}`;
  };
  for (const kind of ["click", "mouseover"]) {
    document.addEventListener(kind, (event) => {
      const token = event.target.closest?.(".tokens i");
      if (token) choose(token.parentElement, token);
    });
  }
  document.addEventListener("keydown", (event) => {
    const box = event.target;
    const way = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!way || !box.classList?.contains("tokens")) return;
    const tokens = [...box.querySelectorAll("i")];
    const next = tokens[tokens.indexOf(box.querySelector(".chosen")) + way] || tokens[way > 0 ? 0 : tokens.length - 1];
    if (next) choose(box, next);
    event.preventDefault();
  });

  // A link to a rollout opens it, and an open rollout is in the address.
  const follow = () => {
    const target = /^#r\d+$/.test(location.hash) && byId(location.hash.slice(1));
    if (target) {
      target.open = true;
      target.scrollIntoView();
    }
  };
  addEventListener("hashchange", follow);
  follow();
})();
