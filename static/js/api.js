// Calls of our own API. Nothing is thrown: an answer is {ok, status, ...body}.

const cookie = (name) => document.cookie.split("; ").find((one) => one.startsWith(`${name}=`))?.slice(name.length + 1);

export async function call(method, address, body) {
  const headers = { Accept: "application/json", "X-CSRFToken": cookie("csrftoken") ?? "" };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  try {
    const answer = await fetch(address, { method, headers, body: body && JSON.stringify(body), cache: "no-store" });
    const told = await answer.json().catch(() => ({}));
    return { ...told, ok: answer.ok && told.success !== false, status: answer.status };
  } catch {
    return { ok: false, status: 0 };
  }
}
