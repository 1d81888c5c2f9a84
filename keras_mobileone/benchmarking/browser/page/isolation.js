// A service worker that adds the headers for isolation, which a static server does not send. Without
// them browsers give neither threads nor exact timers (https://web.dev/articles/coop-coep).

addEventListener("install", () => skipWaiting());
addEventListener("activate", (event) => event.waitUntil(clients.claim()));

addEventListener("fetch", (event) => {
  const { request } = event;
  if (new URL(request.url).origin !== location.origin) return;
  event.respondWith(isolated(request));
});

async function isolated(request) {
  const response = await fetch(request);
  if (response.status === 0) return response; // opaque, so that it has no headers
  const headers = new Headers(response.headers);
  headers.set("Cross-Origin-Opener-Policy", "same-origin");
  headers.set("Cross-Origin-Embedder-Policy", "require-corp");
  headers.set("Cross-Origin-Resource-Policy", "same-origin");
  const { status, statusText, body } = response;
  return new Response([204, 304].includes(status) ? null : body, { status, statusText, headers });
}
