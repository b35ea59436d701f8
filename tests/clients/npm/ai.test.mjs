// Vercel's AI SDK with its provider for Ollama, unchanged. URL: where the daemon listens.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { embedMany, generateObject, generateText, stepCountIs, streamObject, streamText, tool } from 'ai'
import { createOllama } from 'ollama-ai-provider-v2'
import { z } from 'zod'

globalThis.AI_SDK_LOG_WARNINGS = false
const ollama = createOllama({ baseURL: `${process.env.URL}/api` })
const parrot = ollama('parrot')
const asked = { model: parrot, maxRetries: 0 }

test('text, whole and streamed, with usage', async () => {
  const whole = await generateText({ ...asked, prompt: 'one two three' })
  assert.equal(whole.text, 'one two three')
  assert.equal(whole.finishReason, 'stop')
  assert.equal(whole.usage.outputTokens, 3)
  const stream = streamText({ ...asked, prompt: 'one two three' })
  let text = ''
  for await (const part of stream.textStream) text += part
  assert.equal(text, 'one two three')
  assert.equal((await stream.usage).outputTokens, 3)
})

test('tools are called and their results are answered', async () => {
  const weather = tool({ description: 'x', inputSchema: z.object({ city: z.string() }), execute: async ({ city }) => `sunny in ${city}` })
  const answer = await generateText({
    ...asked,
    prompt: 'fake:tool=weather fake:tool_args={"city":"Paris"} go',
    tools: { weather },
    stopWhen: stepCountIs(2),
  })
  assert.deepEqual(answer.steps[0].toolCalls[0].input, { city: 'Paris' })
  assert.match(answer.text, /sunny in Paris/)
})

test('an object of a schema, whole and streamed', async () => {
  const ask = { ...asked, schema: z.object({ age: z.number() }), prompt: 'how old' }
  assert.equal(typeof (await generateObject(ask)).object.age, 'number')
  const stream = streamObject(ask)
  for await (const _ of stream.partialObjectStream);
  assert.equal(typeof (await stream.object).age, 'number')
})

test('reasoning is apart from the answer', async () => {
  const model = ollama('thinker')
  const answer = await generateText({ model, maxRetries: 0, prompt: 'well', providerOptions: { ollama: { think: true } } })
  assert.deepEqual([answer.reasoningText, answer.text], ['let me see', 'well'])
})

test('the completion model continues a prompt', async () => {
  const answer = await generateText({ model: ollama.completion('parrot'), maxRetries: 0, prompt: 'one two' })
  assert.match(answer.text, /one two/)
})

test('embeddings', async () => {
  const { embeddings } = await embedMany({ model: ollama.textEmbeddingModel('parrot'), values: ['a', 'b'], maxRetries: 0 })
  assert.equal(embeddings.length, 2)
})

test('a missing model is an error with its status', async () => {
  await assert.rejects(generateText({ model: ollama('nobody'), maxRetries: 0, prompt: 'x' }), (error) => {
    assert.deepEqual([error.statusCode, error.message], [404, 'Not Found'])
    return true
  })
})

test('a failure in the middle of a stream does not look like its end', async () => {
  const prompt = 'fake:tokens=50 fake:rate=100 fake:fault=error:internal@5 go'
  const stream = streamText({ ...asked, prompt, onError() {} })
  await stream.consumeStream()
  assert.equal(await stream.finishReason, 'other') // the provider drops the error record, and knows no reason to stop
})

test('abort stops a stream', async () => {
  const leaving = new AbortController()
  const stream = streamText({ ...asked, prompt: 'fake:tokens=100000 fake:rate=50 go', abortSignal: leaving.signal })
  const kinds = []
  for await (const part of stream.fullStream) {
    kinds.push(part.type)
    if (part.type === 'text-delta') leaving.abort()
  }
  assert.equal(kinds.at(-1), 'abort')
})
