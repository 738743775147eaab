// A small program on the types that openapi-typescript makes: it creates a
// customer, subscribes it, consumes, checks and lists.
import assert from 'node:assert/strict';
import createClient from 'openapi-fetch';
import type { components, paths } from './usher.js';

const usher = createClient<paths>({
  baseUrl: process.env['USHER_URL'] ?? '',
  headers: { Authorization: `Bearer ${process.env['USHER_KEY']}` },
});

// Why is one of a fixed list: another text does not compile.
const within: components['schemas']['Reason'] = 'unlimited';

const made = await usher.PUT('/v1/customers/{id}', { params: { path: { id: 'ts' } }, body: { name: 'Acme' } });
assert.equal(made.response.status, 201);
const subscribed = await usher.POST('/v1/customers/{id}/subscriptions', {
  params: { path: { id: 'ts' }, header: { 'Idempotency-Key': 'first' } },
  body: { plan: 'pro' },
});
assert.equal(subscribed.data?.plan, 'pro@1');
assert.equal(subscribed.data?.status, 'active');

// Numbers are exact up to 2^53 here. More goes as text, and is exact on the server.
const taken = await usher.POST('/v1/consume', { body: { customer: 'ts', feature: 'calls', amount: 3, key: 'a' } });
assert.equal(taken.data?.allowed, true);
assert.equal(taken.data?.reason, within);
assert.equal(taken.data?.consumed, 3);
const large = await usher.POST('/v1/consume', { body: { customer: 'ts', feature: 'calls', amount: '9007199254740990', key: 'b' }, parseAs: 'text' });
assert.match(large.data ?? '', /"used":9007199254740993,/);

const checked = await usher.POST('/v1/check', { body: { customer: 'ts', feature: 'sso' } });
assert.equal(checked.data?.allowed, true);
const listed = await usher.GET('/v1/customers', { params: { query: { limit: 10 } } });
assert.deepEqual(listed.data?.data.map((c) => c.id), ['acme', 'ts']);

const lost = await usher.GET('/v1/customers/{id}', { params: { path: { id: 'nobody' } } });
assert.equal(lost.error?.code, 'not_found');
console.log('done');
