// What every scripted upstream thinks before it answers, in pieces.
export const THOUGHT = ["Let me", " think… 🤔", "\n1 + 1"];
