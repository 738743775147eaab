// What the scripts share: where the server is, and calls that change something.
export const url = process.env.USHER_URL;
export const key = process.env.USHER_KEY; // of role admin
export const flagsKey = process.env.USHER_FLAGS_KEY; // of role ofrep

async function call(method, path, body, more = {}) {
  const res = await fetch(url + path, {
    method,
    headers: { Authorization: `Bearer ${key}`, 'Content-Type': 'application/json', ...more },
    body: JSON.stringify(body),
  });
  if (!res.ok) throw new Error(`${method} ${path}: ${res.status} ${await res.text()}`);
  return res.json();
}

export const put = (customer) => call('PUT', `/v1/customers/${customer}`, {});

export const override = (customer, feature, value) =>
  call('POST', `/v1/customers/${customer}/overrides`, { feature, value, reason: 'test', expires: 'never' });

export const consume = (customer, feature, amount) =>
  call('POST', '/v1/consume', { customer, feature, amount }, { 'Idempotency-Key': crypto.randomUUID() });

export async function until(what, condition, ms = 1000) {
  const end = Date.now() + ms;
  while (!condition()) {
    if (Date.now() > end) throw new Error(`not within ${ms} ms: ${what}`);
    await new Promise((done) => setTimeout(done, 10));
  }
}

export const pass = (ms) => new Promise((done) => setTimeout(done, ms));
