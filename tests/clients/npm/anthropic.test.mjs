// The official JavaScript client of Anthropic, unchanged. URL: where the daemon listens.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import Anthropic from '@anthropic-ai/sdk'

const client = new Anthropic({ baseURL: process.env.URL, apiKey: 'none', maxRetries: 0 })
const said = (content, more = {}) => ({ model: 'parrot', max_tokens: 64, messages: [{ role: 'user', content }], ...more })
const weather = { name: 'weather', input_schema: { type: 'object', properties: { city: { type: 'string' } } } }

test('messages, whole and streamed', async () => {
  const whole = await client.messages.create(said('one two three'))
  assert.equal(whole.content[0].text, 'one two three')
  assert.equal(whole.stop_reason, 'end_turn')
  const stream = client.messages.stream(said('one two three'))
  assert.equal(await stream.finalText(), 'one two three')
})

test('tools are called, streamed as well', async () => {
  const ask = said('fake:tool=weather fake:tool_args={"city":"Paris"} go', { tools: [weather] })
  const { content } = await client.messages.stream(ask).finalMessage()
  assert.deepEqual([content[0].type, content[0].name, content[0].input], ['tool_use', 'weather', { city: 'Paris' }])
})

test('thinking is a block of its own', async () => {
  const ask = { ...said('well'), model: 'thinker', thinking: { type: 'enabled', budget_tokens: 1024 } }
  const { content } = await client.messages.create(ask)
  assert.deepEqual(content.map((block) => block.type), ['thinking', 'text'])
})

test('tokens are counted', async () => {
  const { input_tokens: counted } = await client.messages.countTokens({ model: 'parrot', messages: said('one two')['messages'] })
  assert.ok(counted > 0)
})

test('errors have their classes, also in the middle of a stream', async () => {
  await assert.rejects(client.messages.create({ ...said('x'), model: 'nobody' }), Anthropic.NotFoundError)
  await assert.rejects(client.messages.create({ ...said('x'), max_tokens: 0 }), Anthropic.BadRequestError)
  const ask = said('fake:tokens=50 fake:rate=100 fake:fault=error:internal@5 go')
  await assert.rejects(client.messages.stream(ask).finalText(), /told to fail/)
})

test('abort stops a stream', async () => {
  const stream = client.messages.stream(said('fake:tokens=100000 fake:rate=50 go', { max_tokens: 100000 }))
  stream.on('text', () => stream.abort())
  await assert.rejects(stream.done(), Anthropic.APIUserAbortError)
})
