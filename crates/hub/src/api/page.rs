//! The page at the admin address: files inside the binary. They hold nothing of the node, which the page asks for.

use axum::body::Body;
use axum::extract::Path;
use axum::http::header;
use axum::response::{IntoResponse as _, Response};

use super::error::{ApiCode, ApiError};

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const IMAGE: &str = "image/svg+xml";

macro_rules! files {
    ($($name:literal: $kind:expr),* $(,)?) => {
        &[$(($name, $kind, include_str!(concat!("../../page/", $name)))),*]
    };
}

/// Name, content type, content.
const FILES: &[(&str, &str, &str)] = files! {
    "app.js": SCRIPT,
    "apply.js": SCRIPT,
    "chart.js": SCRIPT,
    "crowd.js": SCRIPT,
    "details.js": SCRIPT,
    "dom.js": SCRIPT,
    "format.js": SCRIPT,
    "graph.js": SCRIPT,
    "layout.js": SCRIPT,
    "links.js": SCRIPT,
    "model.js": SCRIPT,
    "problems.js": SCRIPT,
    "records.js": SCRIPT,
    "server.js": SCRIPT,
    "style.css": STYLE,
    "icon.svg": IMAGE,
};

pub(super) async fn index() -> Response {
    serve(HTML, include_str!("../../page/index.html"))
}

pub(super) async fn file(Path(name): Path<String>) -> Result<Response, ApiError> {
    let found = FILES.iter().find(|(known, ..)| *known == name);
    let (_, kind, text) =
        found.ok_or_else(|| ApiError::new(ApiCode::NotFound, "the page has no such file"))?;
    Ok(serve(kind, text))
}

fn serve(kind: &'static str, text: &'static str) -> Response {
    // A newer node has newer files under the same names.
    ([(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "no-cache")], Body::from(text)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_on_the_page_comes_from_elsewhere_or_runs_inline() {
        let index = include_str!("../../page/index.html");
        let scripts = index.matches("<script").count();
        assert_eq!(scripts, index.matches("<script type=\"module\" src=\"/page/").count());
        for (name, _, text) in FILES.iter().chain([&("index.html", HTML, index)]) {
            for address in
                text.split("http").skip(1).filter(|rest| rest.starts_with("s://") || rest.starts_with("://"))
            {
                assert!(address.starts_with("://www.w3.org/2000/svg"), "{name}: http{:.40}", address);
            }
            for sink in [
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
                " style=",
                " onclick=",
            ] {
                assert!(!text.contains(sink), "{name}: {sink}");
            }
        }
    }
}
