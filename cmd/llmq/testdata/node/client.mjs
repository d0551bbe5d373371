// One client program among many: each kind of call through the official SDKs, as their users
// write it, with nothing changed but the base URL. It prints how many calls it made, and ends
// with 1 if one of them failed.
import OpenAI from 'openai'
import Anthropic from '@anthropic-ai/sdk'
import { generateText, streamText } from 'ai'
import { createOpenAICompatible } from '@ai-sdk/openai-compatible'

const [gateway, rounds] = process.argv.slice(2)
const prompt = 'Why is the sky blue?'
const messages = [{ role: 'user', content: prompt }]

const openai = new OpenAI({ baseURL: gateway + '/v1', apiKey: 'any' })
const anthropic = new Anthropic({ baseURL: gateway, apiKey: 'any' })
const model = createOpenAICompatible({ name: 'gateway', baseURL: gateway + '/v1', apiKey: 'any' })('gpt-test')

const calls = {
  async openai() {
    const answer = await openai.chat.completions.create({ model: 'gpt-test', max_completion_tokens: 16, messages })
    return answer.choices[0].message.content
  },
  async 'openai stream'() {
    const parts = await openai.chat.completions.create({ model: 'gpt-test', max_completion_tokens: 16, messages, stream: true })
    let text = '', reason
    for await (const part of parts) {
      text += part.choices[0]?.delta?.content ?? ''
      reason = part.choices[0]?.finish_reason ?? reason
    }
    return reason && text
  },
  async anthropic() {
    const answer = await anthropic.messages.create({ model: 'claude-test', max_tokens: 16, messages })
    return answer.content[0].text
  },
  async 'anthropic stream'() {
    const answer = await anthropic.messages.stream({ model: 'claude-test', max_tokens: 16, messages }).finalMessage()
    return answer.stop_reason && answer.content[0].text
  },
  async ai() {
    return (await generateText({ model, maxOutputTokens: 16, prompt })).text
  },
  async 'ai stream'() {
    const answer = streamText({ model, maxOutputTokens: 16, prompt, onError() {} })
    let text = ''
    for await (const part of answer.textStream) text += part
    return (await answer.finishReason) !== 'error' && text
  },
}

let made = 0, failed = 0
async function round() {
  await Promise.all(Object.entries(calls).map(async ([kind, call]) => {
    try {
      made++
      if (!(await call())) throw new Error('an answer without text')
    } catch (err) {
      failed++
      console.error(`${kind}: ${err}`)
    }
  }))
}
for (let i = 0; i < Number(rounds); i++) await round()
console.log(made)
process.exitCode = failed > 0 ? 1 : 0
