// Five questions; every choice answers back. Works with and without a kernel.
function render({ model, el }) {
  el.classList.add("seq-quiz");
  const list = make("ol");
  let right = 0, answered = 0;
  const items = model.get("items"), score = make("p", { role: "status" });
  items.forEach((item, n) => {
    let done = false;
    const entry = make("li", {}, make("div", { textContent: item.q }));
    item.choices.forEach(choice => {
      const button = make("button", { className: "choice", type: "button", textContent: choice.text });
      const why = make("span", { className: "why", hidden: true, textContent: (choice.ok ? "Yes. " : "No. ") + choice.why });
      button.onclick = () => {
        button.dataset.ok = choice.ok ? "1" : "0"; why.hidden = false;
        if (!done) { done = true; answered++; right += choice.ok ? 1 : 0; }
        score.textContent = `${right} right at the first try, of ${answered} answered (${items.length} in all)`;
      };
      entry.append(button, why);
    });
    list.append(entry);
  });
  el.append(list, score);
}
export default { render };
