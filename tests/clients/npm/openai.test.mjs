// The official JavaScript client of OpenAI, unchanged. URL: where the daemon listens.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import OpenAI from 'openai'
import { zodResponseFormat, zodTextFormat } from 'openai/helpers/zod'
import { z } from 'zod'

const client = new OpenAI({ baseURL: `${process.env.URL}/v1`, apiKey: 'none', maxRetries: 0 })
const said = (content, more = {}) => ({ model: 'parrot', messages: [{ role: 'user', content }], ...more })
const Person = z.object({ name: z.string(), age: z.number() })
const call = 'fake:tool=weather fake:tool_args={"city":"Paris"} go'

test('chat, whole and streamed, with usage', async () => {
  const whole = await client.chat.completions.create(said('one two three'))
  assert.equal(whole.choices[0].message.content, 'one two three')
  let text = ''
  let usage = null
  const options = { stream: true, stream_options: { include_usage: true } }
  for await (const chunk of await client.chat.completions.create(said('one two three', options))) {
    text += chunk.choices[0]?.delta.content ?? ''
    usage = chunk.usage ?? usage
  }
  assert.equal(text, 'one two three')
  assert.equal(usage.completion_tokens, 3)
})

test('a runner of tools calls the function and answers with its result', async () => {
  const city = z.object({ city: z.string() })
  const asked = []
  const tool = {
    type: 'function',
    function: {
      name: 'weather',
      parameters: z.toJSONSchema(city),
      parse: JSON.parse,
      function: (given) => { asked.push(given.city); return 'sunny' },
    },
  }
  const runner = client.chat.completions.runTools(said(call, { stream: true, tools: [tool] }))
  assert.equal(await runner.finalContent(), 'sunny')
  assert.deepEqual(asked, ['Paris'])
})

test('structured output is parsed', async () => {
  const chat = await client.chat.completions.parse(said('who', { response_format: zodResponseFormat(Person, 'person') }))
  assert.equal(typeof chat.choices[0].message.parsed.age, 'number')
  const text = { format: zodTextFormat(Person, 'person') }
  const response = await client.responses.parse({ model: 'parrot', input: 'who', text })
  assert.equal(typeof response.output_parsed.age, 'number')
})

test('responses, whole and streamed', async () => {
  const whole = await client.responses.create({ model: 'parrot', input: 'one two three' })
  assert.equal(whole.output_text, 'one two three')
  const stream = client.responses.stream({ model: 'parrot', input: 'one two three' })
  const kinds = []
  for await (const event of stream) kinds.push(event.type)
  assert.equal((await stream.finalResponse()).output_text, 'one two three')
  assert.equal(kinds.at(-1), 'response.completed')
})

test('embeddings come as base64 unless told, and are decoded', async () => {
  const vectors = await client.embeddings.create({ model: 'parrot', input: ['a', 'b'] })
  const floats = await client.embeddings.create({ model: 'parrot', input: ['a', 'b'], encoding_format: 'float' })
  for (const [i, { embedding }] of vectors.data.entries())
    embedding.forEach((value, j) => assert.ok(Math.abs(value - floats.data[i].embedding[j]) < 1e-6))
})

test('models are listed and shown', async () => {
  const ids = []
  for await (const model of client.models.list()) ids.push(model.id)
  assert.ok(ids.includes('parrot:latest'))
  assert.equal((await client.models.retrieve('parrot:latest')).object, 'model')
})

test('errors have their classes, also in the middle of a stream', async () => {
  await assert.rejects(client.chat.completions.create({ ...said('x'), model: 'nobody' }), OpenAI.NotFoundError)
  await assert.rejects(client.chat.completions.create({ ...said('x'), temperature: -1 }), OpenAI.BadRequestError)
  const format = { type: 'json_schema', json_schema: { name: 'x', schema: { type: 3 } } }
  await assert.rejects(client.chat.completions.create(said('x', { response_format: format })), OpenAI.BadRequestError)
  const stream = await client.chat.completions.create(
    said('fake:tokens=50 fake:rate=100 fake:fault=error:internal@5 go', { stream: true }),
  )
  await assert.rejects(async () => { for await (const _ of stream); }, /told to fail/)
})

test('abort stops a stream', async () => {
  const stream = await client.chat.completions.create(said('fake:tokens=100000 fake:rate=50 go', { stream: true }))
  for await (const _ of stream) stream.controller.abort()
  assert.ok(stream.controller.signal.aborted)
})
