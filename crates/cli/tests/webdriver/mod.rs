//! A browser without a window, steered through its WebDriver (W3C WebDriver; chromedriver). Plain HTTP with a body of
//! known length is all that takes.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};

/// A browser with one page open.
pub(crate) struct Browser {
    driver: Child,
    port: u16,
    session: String,
}

fn on_path(names: &[&str]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    names
        .iter()
        .flat_map(|name| std::env::split_paths(&path).map(move |dir| dir.join(name)))
        .find(|file| file.is_file())
}

impl Browser {
    /// Starts one. `None` if the machine has none, which in CI is a failure.
    pub(crate) fn start() -> Option<Self> {
        let chrome = on_path(&["chromium", "chromium-browser", "google-chrome"]);
        let (Some(chrome), Some(driver)) = (chrome, on_path(&["chromedriver"])) else {
            assert!(std::env::var_os("CI").is_none(), "no chromium and chromedriver: install them");
            eprintln!("skipped: this test needs chromium and chromedriver");
            return None;
        };
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let driver = Command::new(driver)
            .arg(format!("--port={port}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut browser = Self { driver, port, session: String::new() };
        wait("chromedriver", Duration::from_secs(20), || TcpStream::connect(("127.0.0.1", port)).ok());
        let arguments = ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"];
        let options = json!({ "binary": chrome, "args": arguments });
        let wanted = json!({ "browserName": "chrome", "goog:loggingPrefs": { "browser": "ALL" }, "goog:chromeOptions": options });
        let opened = browser.ask("POST", "/session", &json!({ "capabilities": { "alwaysMatch": wanted } }));
        browser.session = format!("/session/{}", opened["sessionId"].as_str().unwrap());
        Some(browser)
    }

    fn ask(&self, method: &str, path: &str, body: &Json) -> Json {
        let body = if method == "GET" { String::new() } else { body.to_string() };
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body.as_bytes()).unwrap();
        let mut reader = BufReader::new(stream);
        let (mut line, mut length) = (String::new(), 0);
        while reader.read_line(&mut line).unwrap() > 2 {
            let lower = line.to_ascii_lowercase();
            if let Some(value) = lower.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            line.clear();
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        let answer: Json = serde_json::from_slice(&body).unwrap();
        assert!(answer["value"]["error"].is_null(), "{method} {path}: {}", answer["value"]["message"]);
        answer["value"].clone()
    }

    fn in_session(&self, method: &str, path: &str, body: &Json) -> Json {
        self.ask(method, &format!("{}{path}", self.session), body)
    }

    fn devtools(&self, command: &str, parameters: Json) -> Json {
        self.in_session("POST", "/goog/cdp/execute", &json!({ "cmd": command, "params": parameters }))
    }

    pub(crate) fn open(&self, url: &str) {
        self.in_session("POST", "/url", &json!({ "url": url }));
    }

    /// Runs a script in the page and answers what it returns.
    pub(crate) fn run(&self, script: &str) -> Json {
        self.in_session("POST", "/execute/sync", &json!({ "script": script, "args": [] }))
    }

    /// Runs a script whose last argument is called with the answer.
    pub(crate) fn run_async(&self, script: &str) -> Json {
        self.in_session("POST", "/execute/async", &json!({ "script": script, "args": [] }))
    }

    /// Waits until a script returns something that counts as true.
    pub(crate) fn until(&self, what: &str, patience: Duration, script: &str) -> Json {
        wait(what, patience, || Some(self.run(script)).filter(is_true))
    }

    /// A window of this size with light or dark as the system's wish.
    pub(crate) fn look(&self, width: u32, height: u32, dark: bool) {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600 });
        self.devtools("Emulation.setDeviceMetricsOverride", size);
        let scheme = if dark { "dark" } else { "light" };
        let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.devtools("Emulation.setEmulatedMedia", features);
    }

    /// A real click at a place of the window.
    pub(crate) fn click_at(&self, x: f64, y: f64) {
        for kind in ["mouseMoved", "mousePressed", "mouseReleased"] {
            let button = if kind == "mouseMoved" { "none" } else { "left" };
            let event = json!({ "type": kind, "x": x, "y": y, "button": button, "clickCount": 1 });
            self.devtools("Input.dispatchMouseEvent", event);
        }
    }

    /// Clicks in the middle of what a selector finds first.
    pub(crate) fn click(&self, selector: &str) {
        let quoted = json!(selector);
        let found = self.run(&format!(
            "const found = document.querySelector({quoted}); if (!found) return null; \
             found.scrollIntoView({{ block: 'nearest' }}); const box = found.getBoundingClientRect(); \
             return [box.left + box.width / 2, box.top + box.height / 2]"
        ));
        let at =
            |index: usize| found[index].as_f64().unwrap_or_else(|| panic!("nothing to click: {selector}"));
        self.click_at(at(0), at(1));
    }

    pub(crate) fn type_text(&self, text: &str) {
        self.devtools("Input.insertText", json!({ "text": text }));
    }

    pub(crate) fn press(&self, key: &str) {
        for kind in ["keyDown", "keyUp"] {
            let text = if key == "Enter" { "\r" } else { key };
            let mut event = json!({ "type": kind, "key": key, "windowsVirtualKeyCode": if key == "Enter" { 13 } else { 0 } });
            if kind == "keyDown" && (key.len() == 1 || key == "Enter") {
                event["text"] = text.into();
            }
            self.devtools("Input.dispatchKeyEvent", event);
        }
    }

    /// Errors and warnings in the console since this was last asked.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let log = self.in_session("POST", "/se/log", &json!({ "type": "browser" }));
        let told = log.as_array().unwrap().iter();
        told.filter(|entry| matches!(entry["level"].as_str(), Some("SEVERE" | "WARNING")))
            .map(|entry| entry["message"].as_str().unwrap_or_default().to_owned())
            .collect()
    }

    /// Keeps a picture in the directory that `BLAZEDB_SCREENSHOTS` names, if it does.
    pub(crate) fn picture(&self, name: &str) {
        let Some(dir) = std::env::var_os("BLAZEDB_SCREENSHOTS") else { return };
        let taken = self.in_session("GET", "/screenshot", &json!({}));
        let bytes = from_base64(taken.as_str().unwrap());
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(Path::new(&dir).join(format!("{name}.png")), bytes).unwrap();
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if !self.session.is_empty() && !std::thread::panicking() {
            self.in_session("DELETE", "", &json!({}));
        }
        // Its browser ends with it.
        let _ = Command::new("kill").arg(self.driver.id().to_string()).status();
        let _ = self.driver.wait();
    }
}

fn is_true(value: &Json) -> bool {
    !matches!(value, Json::Null | Json::Bool(false))
        && value.as_str() != Some("")
        && value.as_f64() != Some(0.0)
}

/// Asks again and again until there is an answer.
pub(crate) fn wait<T>(what: &str, patience: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(started.elapsed() < patience, "{what}: not within {patience:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn from_base64(text: &str) -> Vec<u8> {
    let digit = |byte: u8| match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let (mut bytes, mut bits, mut held) = (Vec::new(), 0u32, 0);
    for byte in text.bytes().filter(|byte| *byte != b'=') {
        bits = bits << 6 | u32::from(digit(byte));
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held & 0xff) as u8);
        }
    }
    bytes
}
