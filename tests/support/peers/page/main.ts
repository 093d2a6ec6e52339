import './style.css';

const said: string = `6 * 7 is ${6 * 7}, says TypeScript`;
document.querySelector('#said')!.textContent = said;
