// The official JavaScript client of Ollama, unchanged. URL: where the daemon listens.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Ollama } from 'ollama'

const client = new Ollama({ host: process.env.URL })
const said = (content, more = {}) => ({ model: 'parrot', messages: [{ role: 'user', content }], ...more })
const weather = {
  type: 'function',
  function: { name: 'weather', description: 'x', parameters: { type: 'object', properties: { city: { type: 'string' } } } },
}

test('chat, whole and streamed', async () => {
  const whole = await client.chat(said('one two three'))
  assert.equal(whole.message.content, 'one two three')
  assert.equal(whole.done_reason, 'stop')
  let text = ''
  for await (const part of await client.chat(said('one two three', { stream: true }))) text += part.message.content
  assert.equal(text, 'one two three')
})

test('generate, with thinking, options and a schema', async () => {
  const thought = await client.generate({ model: 'thinker', prompt: 'well', think: true })
  assert.deepEqual([thought.thinking, thought.response], ['let me see', 'well'])
  const short = await client.generate({ model: 'parrot', prompt: 'a b c', options: { num_predict: 2 } })
  assert.deepEqual([short.response, short.done_reason, short.eval_count], ['a b', 'length', 2])
  const schema = { type: 'object', properties: { age: { type: 'integer' } }, required: ['age'] }
  const shaped = await client.generate({ model: 'parrot', prompt: 'x', format: schema })
  assert.equal(typeof JSON.parse(shaped.response).age, 'number')
})

test('tools are called with an object of arguments', async () => {
  const { message } = await client.chat(said('fake:tool=weather fake:tool_args={"city":"Paris"} go', { tools: [weather] }))
  assert.equal(message.tool_calls[0].function.name, 'weather')
  assert.deepEqual(message.tool_calls[0].function.arguments, { city: 'Paris' })
  const ask = said('fake:tool=weather fake:tool_args={"city":"Rome"} go', { tools: [weather], stream: true })
  const calls = []
  for await (const part of await client.chat(ask)) calls.push(...(part.message.tool_calls ?? []))
  assert.deepEqual(calls.map((call) => call.function.arguments), [{ city: 'Rome' }])
})

test('embeddings of one and of many', async () => {
  const many = await client.embed({ model: 'parrot', input: ['a', 'b'] })
  assert.equal(many.embeddings.length, 2)
  const one = await client.embeddings({ model: 'parrot', prompt: 'a' })
  assert.equal(one.embedding.length, many.embeddings[0].length)
})

test('models: list, show, ps, copy, create, delete, pull, version', async () => {
  assert.ok((await client.list()).models.some((model) => model.name === 'parrot:latest'))
  assert.ok((await client.show({ model: 'parrot' })).capabilities.includes('completion'))
  assert.ok((await client.ps()).models.some((model) => model.name === 'parrot:latest'))
  assert.match((await client.version()).version, /^\d+\.\d+\.\d+/)
  await client.copy({ source: 'parrot', destination: 'npm-copy' })
  const made = await client.create({ model: 'npm-made', from: 'parrot', system: 'be brief' })
  assert.equal(made.status, 'success')
  for (const model of ['npm-copy', 'npm-made']) assert.equal((await client.delete({ model })).status, 'success')
  const steps = []
  for await (const step of await client.pull({ model: 'fake/npm', stream: true })) steps.push(step.status)
  assert.deepEqual([steps[0], steps.at(-1)], ['pulling manifest', 'success'])
})

test('errors: early with a status, and in the middle of a stream', async () => {
  await assert.rejects(client.chat({ ...said('x'), model: 'nobody' }), (error) => {
    assert.equal(error.status_code, 404)
    assert.equal(error.message, "model 'nobody' not found")
    return true
  })
  await assert.rejects(client.chat(said('x', { format: { type: 3 } })), (error) => error.status_code === 400)
  await assert.rejects(client.push({ model: 'parrot' }), /this server uploads no models/)
  const stream = await client.chat(said('fake:tokens=50 fake:rate=100 fake:fault=error:internal@5 go', { stream: true }))
  await assert.rejects(async () => { for await (const _ of stream); }, /told to fail/)
})

test('abort stops a stream', async () => {
  const stream = await client.chat(said('fake:tokens=100000 fake:rate=50 go', { stream: true }))
  await assert.rejects(async () => { for await (const _ of stream) stream.abort() }, { name: 'AbortError' })
})
