import react from '@vitejs/plugin-react';

// The page asks its own server for /api, which passes that on to relaystream: no address in the page, no CORS.
const proxy = { '/api': process.env.RELAYSTREAM ?? 'http://127.0.0.1:8080' };

export default { plugins: [react()], server: { proxy }, preview: { proxy } };
