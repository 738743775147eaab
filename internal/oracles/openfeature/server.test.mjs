// The real OpenFeature SDK for servers with its OFREP provider, unchanged.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { OpenFeature } from '@openfeature/server-sdk';
import { OFREPProvider } from '@openfeature/ofrep-provider';
import { consume, flagsKey, put, url } from './world.mjs';

const acme = { targetingKey: 'server', seen: { deep: [1, true] } };
let client;

before(async () => {
  await put('server');
  const provider = new OFREPProvider({ baseUrl: url, headers: [['Authorization', `Bearer ${flagsKey}`]] });
  await OpenFeature.setProviderAndWait(provider);
  client = OpenFeature.getClient();
});
after(() => OpenFeature.close());

test('every kind of feature is a flag', async () => {
  assert.equal(await client.getBooleanValue('sso', false, acme), true);
  assert.equal(await client.getBooleanValue('audit', true, acme), false);
  assert.equal(await client.getStringValue('support', 'community', acme), 'email');
  assert.equal(await client.getStringValue('greeting', '', acme), 'hello, world');
  assert.equal(await client.getNumberValue('retention', 7, acme), 90);
  assert.equal(await client.getNumberValue('discount', 0, acme), 12.5);
  assert.deepEqual(await client.getObjectValue('regions', [], acme), ['eu', 'us']);
  const seats = await client.getObjectValue('editors', {}, acme);
  assert.equal(seats.limit, 5);
  assert.equal(seats.remaining, 5);
});

test('details say why', async () => {
  const yes = await client.getBooleanDetails('sso', false, acme);
  assert.equal(yes.reason, 'TARGETING_MATCH');
  assert.equal(yes.variant, 'on');
  assert.equal(yes.flagMetadata.plan, 'pro@1');
  assert.equal(yes.flagMetadata.reason, 'granted');
  assert.equal(yes.errorCode, undefined);
  const no = await client.getBooleanDetails('audit', true, acme);
  assert.equal(no.reason, 'DISABLED');
  assert.equal(no.flagMetadata.reason, 'not_entitled');
  assert.equal(no.errorCode, undefined);
});

test('what is denied is never the default', async () => {
  const archive = await client.getNumberDetails('archive', 9999, acme);
  assert.equal(archive.value, 0);
  assert.equal(archive.errorCode, undefined);
  assert.equal(await client.getBooleanValue('archive.allowed', true, acme), false);
});

test('what is used up is off', async () => {
  assert.equal(await client.getBooleanValue('exports.allowed', false, acme), true);
  await consume('server', 'exports', 2);
  const details = await client.getBooleanDetails('exports.allowed', true, acme);
  assert.equal(details.value, false);
  assert.equal(details.flagMetadata.reason, 'limit_reached');
  const { used, remaining, window } = await client.getObjectValue('exports', {}, acme);
  assert.equal(used, 2);
  assert.equal(remaining, 0);
  assert.ok(Date.parse(window.end) > Date.now());
});

test('errors are those of OpenFeature, and the default holds', async () => {
  const unknown = await client.getBooleanDetails('nothing', true, acme);
  assert.equal(unknown.value, true);
  assert.equal(unknown.errorCode, 'FLAG_NOT_FOUND');
  const nobody = await client.getBooleanDetails('sso', true, {});
  assert.equal(nobody.errorCode, 'TARGETING_KEY_MISSING');
  const wrong = await client.getBooleanDetails('sso', true, { targetingKey: 'server', member: 5 });
  assert.equal(wrong.errorCode, 'INVALID_CONTEXT');
  const type = await client.getStringDetails('retention', 'x', acme);
  assert.equal(type.errorCode, 'TYPE_MISMATCH');
  await OpenFeature.setProviderAndWait('no key', new OFREPProvider({ baseUrl: url }));
  const closed = await OpenFeature.getClient('no key').getBooleanDetails('sso', false, acme);
  assert.equal(closed.value, false);
  assert.equal(closed.reason, 'ERROR');
});
