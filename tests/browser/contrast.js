// The texts inside `root` whose contrast with what is behind them is below `least`.
(root, least) => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const parsed = new Map();
  const parse = (text) => {
    if (!parsed.has(text)) parsed.set(text, draw(text));
    return parsed.get(text);
  };
  const draw = (text) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = text;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = (top, below) => top.slice(0, 3).map((v, i) => v * top[3] + below[i] * (1 - top[3]));
  const parent = (node) => node.parentElement || node.getRootNode().host;
  const behind = (element) => {
    const layers = [];
    for (let at = element; at; at = parent(at)) layers.push(parse(getComputedStyle(at).backgroundColor));
    return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255]);
  };
  const luminance = (rgb) => {
    const [r, g, b] = rgb.map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const faint = [];
  const visit = (node) => {
    if (node.shadowRoot) visit(node.shadowRoot);
    for (const child of node.childNodes) {
      if (child.nodeType === Node.ELEMENT_NODE && !["STYLE", "SCRIPT"].includes(child.tagName)) visit(child);
      if (child.nodeType !== Node.TEXT_NODE || !child.textContent.trim()) continue;
      const element = child.parentElement;
      if (!element || !element.checkVisibility({ visibilityProperty: true })) continue;
      if (element.closest(":disabled, [aria-disabled=true]")) continue;
      const back = behind(element);
      const ink = over(parse(getComputedStyle(element).color), back);
      const [a, b] = [luminance(ink), luminance(back)].sort((x, y) => y - x);
      const ratio = (a + 0.05) / (b + 0.05);
      if (ratio < least) faint.push(`${ratio.toFixed(2)}: ${child.textContent.trim().slice(0, 60)}`);
    }
  };
  visit(root);
  return faint;
}
