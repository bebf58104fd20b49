export const namelessElements: () => string[];
export const faintTexts: () => string[];
export const overflowPixels: () => number;
export const markPage: () => void;
export const pageMark: () => string | undefined;
export const hasText: (wanted: string) => boolean;
