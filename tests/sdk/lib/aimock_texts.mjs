// What aimock is told to say, and what must arrive.
export const TEXT = "Grüße aus 東京 👋\n\n**one** two three, \"four\" \\ five — 六";
export const REASONING = "The user wants a greeting. 考える…";
