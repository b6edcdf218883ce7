import { useChat } from '@ai-sdk/react';
import { useEffect, useState } from 'react';
import { createRoot } from 'react-dom/client';

// The chat outlives the page: its id says which answer to go on with, its messages are what the page shows at once.
const saved = JSON.parse(localStorage.getItem('chat')) ?? { id: crypto.randomUUID(), messages: [] };

function Chat() {
  const { id, messages, sendMessage, regenerate, status, error } = useChat({ ...saved, resume: true });
  const [text, setText] = useState('');
  useEffect(() => { localStorage.setItem('chat', JSON.stringify({ id, messages })); }, [id, messages]);
  useEffect(() => { scrollTo(0, document.body.scrollHeight); }, [messages]);

  const busy = status === 'submitted' || status === 'streaming';
  const send = event => {
    event.preventDefault();
    sendMessage({ text });
    setText('');
  };
  // useChat's own stop() only hangs up, and the answer would go on without this page.
  const stop = () => fetch(`/api/chat/${id}/stop`, { method: 'POST' });
  const forget = () => {
    localStorage.removeItem('chat');
    location.reload();
  };

  return (
    <>
      <header>
        <h1>useChat over relaystream</h1>
        <button type="button" onClick={forget} disabled={busy}>New chat</button>
      </header>
      <p>Ask something, then reload while the answer comes.</p>
      {messages.map(message => <Message key={message.id} {...message} />)}
      {error && <p role="alert">{error.message}</p>}
      <form onSubmit={send}>
        <input value={text} onChange={event => setText(event.target.value)} placeholder="Ask something" autoFocus required />
        {busy
          ? <button type="button" onClick={stop}>Stop</button>
          : <button>Send</button>}
        <button type="button" onClick={() => regenerate()} disabled={busy || messages.length === 0}>Again</button>
      </form>
      <small data-status={status}>{status}</small>
    </>
  );
}

function Message({ role, parts, metadata }) {
  const text = parts.filter(part => part.type === 'text').map(part => part.text).join('');
  const note = metadata?.stoppedBy ? 'stopped' : metadata?.usage && `${metadata.usage.outputTokens} tokens by ${metadata.model}`;
  return (
    <article className={role}>
      <span className="text">{text}</span>
      {note && <small>{note}</small>}
    </article>
  );
}

createRoot(document.getElementById('root')).render(<Chat />);
