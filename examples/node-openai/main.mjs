// OpenAI's own SDK with one thing changed: its baseURL. The answer can then be read again, from anywhere.

import OpenAI from 'openai';

const client = new OpenAI({
  baseURL: process.env.OPENAI_BASE_URL ?? 'http://127.0.0.1:8080/v1',
  apiKey: process.env.OPENAI_API_KEY ?? 'open-access-needs-none',
});

const { data: stream, response } = await client.chat.completions
  .create({
    // With no key configured, relaystream's demo provider answers to any name.
    model: process.env.MODEL ?? 'gpt-4.1-mini',
    messages: [{ role: 'user', content: process.argv.slice(2).join(' ') || 'Explain tides to a sailor.' }],
    stream: true,
  })
  .withResponse();
const streamId = response.headers.get('x-stream-id');

try {
  for await (const chunk of stream) process.stdout.write(chunk.choices[0]?.delta?.content ?? '');
  process.stdout.write('\n');
} catch (error) {
  // A provider that broke off is an error here, never a short answer.
  console.error(`\nthe stream failed: ${error.message}`);
  process.exit(1);
}

console.error(`stream ${streamId}`);
console.error(`read it again: curl -N ${client.baseURL}/streams/${streamId}/events`);
