export function cutCases() {}
