// The real OpenFeature SDK for browsers with its OFREP provider, unchanged. What
// a browser has and this runtime may not is EventSource.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { EventSource } from 'eventsource';
import { OpenFeature, ProviderEvents } from '@openfeature/web-sdk';
import { OFREPWebProvider } from '@openfeature/ofrep-web-provider';
import { consume, flagsKey, override, pass, put, until, url } from './world.mjs';

globalThis.EventSource ??= EventSource;

// provider is one that notes what its calls were answered with.
function provider(options) {
  const statuses = [];
  const made = new OFREPWebProvider({
    baseUrl: url,
    headers: [['Authorization', `Bearer ${flagsKey}`]],
    cacheMode: 'disabled',
    fetchImplementation: async (...request) => {
      const res = await fetch(...request);
      statuses.push(res.status);
      return res;
    },
    ...options,
  });
  return { made, statuses };
}

before(async () => {
  for (const id of ['web', 'web-two', 'polls', 'other']) await put(id);
});
after(() => OpenFeature.close());

test('flags are there at once, and changes are told', async () => {
  const { made, statuses } = provider();
  await OpenFeature.setContext('web', { targetingKey: 'web' });
  await OpenFeature.setProviderAndWait('web', made);
  const client = OpenFeature.getClient('web');
  const changes = [];
  client.addHandler(ProviderEvents.ConfigurationChanged, (e) => changes.push(...(e.flagsChanged ?? [])));

  assert.equal(client.getBooleanValue('sso', false), true);
  assert.equal(client.getBooleanValue('audit', true), false);
  assert.equal(client.getStringValue('support', ''), 'email');
  assert.equal(client.getNumberValue('retention', 7), 90);
  assert.equal(client.getNumberValue('discount', 0), 12.5);
  assert.equal(client.getNumberValue('archive', 9999), 0);
  assert.deepEqual(client.getObjectValue('regions', []), ['eu', 'us']);
  assert.equal(client.getObjectValue('exports', {}).limit, 2);
  assert.equal(client.getBooleanValue('exports.allowed', false), true);
  const details = client.getBooleanDetails('sso', false);
  assert.equal(details.reason, 'TARGETING_MATCH');
  assert.equal(details.flagMetadata.plan, 'pro@1');
  assert.equal(client.getBooleanDetails('nothing', true).errorCode, 'FLAG_NOT_FOUND');

  // Its own change is seen within a second, without a poll.
  await pass(300);
  await override('web', 'retention', 365);
  await until('the changed value', () => client.getNumberValue('retention', 7) === 365);
  assert.ok(changes.includes('retention'), `changed: ${changes}`);
  assert.ok(!changes.includes('sso'), `changed: ${changes}`);

  // Another customer's is not even asked about.
  const calls = statuses.length;
  await override('other', 'retention', 1);
  await pass(500);
  assert.equal(statuses.length, calls);

  // Another customer on the same page has its own flags and its own changes.
  await OpenFeature.setContext('web', { targetingKey: 'web-two' });
  assert.equal(client.getNumberValue('retention', 7), 90);
  await pass(300);
  await override('web-two', 'retention', 30);
  await until('the changed value of the second customer', () => client.getNumberValue('retention', 7) === 30);
});

test('polling costs a 304 while nothing changes', async () => {
  const { made, statuses } = provider({ changeDetection: 'polling', pollInterval: 50 });
  await OpenFeature.setContext('polls', { targetingKey: 'polls' });
  await OpenFeature.setProviderAndWait('polls', made);
  const client = OpenFeature.getClient('polls');
  await until('three polls', () => statuses.length > 3, 3000);
  assert.deepEqual(statuses.slice(0, 3), [200, 304, 304]);
  await consume('polls', 'exports', 2);
  await until('what is used up', () => client.getBooleanValue('exports.allowed', true) === false);
  assert.equal(client.getObjectValue('exports', {}).remaining, 0);
});

test('without a targeting key there are no flags', async () => {
  const { made } = provider();
  await OpenFeature.setContext('nobody', {});
  await OpenFeature.setProviderAndWait('nobody', made).catch(() => {});
  const details = OpenFeature.getClient('nobody').getBooleanDetails('sso', false);
  assert.equal(details.value, false);
  assert.equal(details.reason, 'ERROR');
});
