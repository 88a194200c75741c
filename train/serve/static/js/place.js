// Where one is, as the link says: ?view=&clip=&t=&run= and the filters of lists.

export const place = () => Object.fromEntries(new URLSearchParams(location.search));

/** The link of a place: values over the present ones; null takes one away. */
export function href(values, fresh = false) {
  const keep = fresh ? { run: place().run } : place();
  const next = { ...keep, ...values };
  const pairs = Object.entries(next).filter(([, value]) => value !== null && value !== undefined && value !== false);
  return `/?${new URLSearchParams(pairs.map(([name, value]) => [name, String(value)]))}`;
}

/** Go to a place. `quiet` changes the link alone, and the view stays. */
export function go(values, { fresh = false, quiet = false } = {}) {
  const to = href(values, fresh);
  if (quiet) history.replaceState(null, "", to);
  else {
    history.pushState(null, "", to);
    window.dispatchEvent(new Event("place"));
  }
}

/** A link that changes the view without a new page. */
export function follow(event) {
  const link = event.target.closest("a[href]");
  if (!link || link.origin !== location.origin || !link.pathname.match(/^\/$/) || event.metaKey || event.ctrlKey || event.shiftKey) return;
  if (link.target || event.button) return;
  event.preventDefault();
  history.pushState(null, "", link.href);
  window.dispatchEvent(new Event("place"));
}
