// The token of this tab, for a server that asks for one. The page has a hidden form #sign-in with the field #token.

const form = document.getElementById("sign-in");
const field = document.getElementById("token");

function token() {
  return sessionStorage.getItem("petiole-token");
}

// The headers of a request.
export function authorization() {
  return token() ? { Authorization: `Bearer ${token()}` } : {};
}

// The subprotocols of a WebSocket, which has no headers. A subprotocol has fewer characters than a token may have.
export function subprotocols() {
  const escaped = encodeURIComponent(token() ?? "").replace(/[()]/g, (each) => `%${each.charCodeAt(0).toString(16)}`);
  return token() ? ["petiole", `bearer.${escaped}`] : [];
}

// Wait until the user has given a token.
export function signIn() {
  form.hidden = false;
  field.focus();
  return new Promise((resolve) => {
    form.onsubmit = (event) => {
      event.preventDefault();
      sessionStorage.setItem("petiole-token", field.value.trim());
      form.hidden = true;
      resolve();
    };
  });
}

export function cancelSignIn() {
  form.hidden = true;
}
