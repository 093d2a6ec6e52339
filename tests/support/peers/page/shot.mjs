// What an agent does to see its page: open it, wait for its script, take a picture.
import { chromium } from 'playwright-core';

const browser = await chromium.launch({ executablePath: process.argv[2] });
const page = await browser.newPage({ viewport: { width: 800, height: 400 } });
await page.goto('http://127.0.0.1:8310/');
await page.waitForFunction(() => document.querySelector('#said').textContent);
await page.screenshot({ path: 'shot.png' });
console.log(await page.textContent('#said'));
await browser.close();
