//! How a command reaches databases: through the node that has them open, or by opening the files itself.
//!
//! Invariant: both ways end in the same handlers, so a command cannot tell them apart.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{Method, Request, header};
use axum::response::Response;
use blazedb_core::topology::{DatabaseName, TopologySpec};
use blazedb_hub::api::{Reach, connect_local, router};
use blazedb_hub::{Node, OpenMode};
use http_body_util::BodyExt as _;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde_json::Value as Json;
use tokio::time::Instant;
use tower::ServiceExt as _;

use crate::args::GlobalArgs;
use crate::load::{entry, load};
use crate::output::{CliError, ErrorCode};

/// How long a command waits for another short one to let go of a file.
const WAIT_FOR_LOCK: Duration = Duration::from_secs(3);
/// How long a node may take to say what it has open.
const WAIT_FOR_NODE: Duration = Duration::from_secs(10);
/// The longest answer that is read in one piece, in bytes.
const MAX_ANSWER: usize = 64 << 20;

/// A way to the databases of a topology file.
pub struct Client {
    way: Way,
}

enum Way {
    Node(SendRequest<Body>),
    Own(Router, Arc<Node>),
}

/// Opens a node with all databases or those in `only`; waits a moment for a short command that works on one of its files
/// just now.
///
/// # Errors
/// Those of [`Node::open`].
pub async fn open_when_free(
    spec: &TopologySpec,
    file: &Path,
    mode: OpenMode,
    only: Option<&[String]>,
) -> Result<Node, CliError> {
    let gives_up = Instant::now() + WAIT_FOR_LOCK;
    loop {
        match Node::open(spec.clone(), file, mode, only).await {
            Ok(node) => return Ok(node),
            Err(error) => {
                let error = CliError::from(error);
                if error.code != ErrorCode::Locked || Instant::now() >= gives_up {
                    return Err(error);
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

impl Client {
    /// A way to `db`.
    ///
    /// # Errors
    /// What is wrong with the topology file, or keeps the database from being opened.
    pub async fn open(global: &GlobalArgs, db: &DatabaseName) -> Result<Self, CliError> {
        let spec = load(global)?;
        entry(&spec, db)?;
        Self::open_all(&spec, &global.file, std::slice::from_ref(db)).await
    }

    /// A way to all of `databases`.
    ///
    /// # Errors
    /// As [`Client::open`].
    pub async fn open_all(
        spec: &TopologySpec,
        file: &Path,
        databases: &[DatabaseName],
    ) -> Result<Self, CliError> {
        let names: Vec<String> = databases.iter().map(ToString::to_string).collect();
        let gives_up = Instant::now() + WAIT_FOR_LOCK;
        loop {
            if let Some(client) = Self::through_node(spec, file, &names).await? {
                return Ok(client);
            }
            match Node::open(spec.clone(), file, OpenMode::FilesOnly, Some(&names)).await {
                Ok(node) => return Ok(Self::own(Arc::new(node), OpenMode::FilesOnly)),
                Err(error) => {
                    let error = CliError::from(error);
                    if error.code != ErrorCode::Locked || Instant::now() >= gives_up {
                        return Err(error);
                    }
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The way through a node of this process.
    #[must_use]
    pub fn own(node: Arc<Node>, mode: OpenMode) -> Self {
        Self { way: Way::Own(router(Arc::clone(&node), mode, Reach::Local), node) }
    }

    /// The way through the running node, if there is one.
    ///
    /// # Errors
    /// None but that of a node that does not answer.
    pub async fn running(spec: &TopologySpec, file: &Path) -> Result<Option<Self>, CliError> {
        let Ok(stream) = connect_local(&socket_path(spec, file)).await else { return Ok(None) };
        let shaken = tokio::time::timeout(WAIT_FOR_NODE, handshake(TokioIo::new(stream))).await;
        let Ok(Ok((sender, connection))) = shaken else { return Err(gone()) };
        tokio::spawn(connection);
        Ok(Some(Self { way: Way::Node(sender) }))
    }

    async fn through_node(
        spec: &TopologySpec,
        file: &Path,
        names: &[String],
    ) -> Result<Option<Self>, CliError> {
        let Some(mut client) = Self::running(spec, file).await? else { return Ok(None) };
        let asked =
            tokio::time::timeout(WAIT_FOR_NODE, client.json(Method::GET, "/v1/databases", Body::empty()));
        let open = asked.await.map_err(|_| gone())??;
        let open: Vec<&str> =
            open["databases"].as_array().into_iter().flatten().filter_map(|db| db["name"].as_str()).collect();
        Ok(names.iter().all(|name| open.contains(&name.as_str())).then_some(client))
    }

    /// The node of this process, if that is the way.
    #[must_use]
    pub const fn own_node(&self) -> Option<&Arc<Node>> {
        match &self.way {
            Way::Own(_, node) => Some(node),
            Way::Node(_) => None,
        }
    }

    /// Asks, and answers with the body of a success.
    ///
    /// # Errors
    /// The [`CliError`] that the answer holds.
    pub async fn ask(&mut self, method: Method, path: &str, body: Body) -> Result<Reply, CliError> {
        self.ask_indexed(method, path, body).await.map_err(|failure| failure.error)
    }

    /// [`Client::ask`], with the item that an error is about.
    pub(crate) async fn ask_indexed(
        &mut self,
        method: Method,
        path: &str,
        body: Body,
    ) -> Result<Reply, Failure> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "localhost")
            .header(header::ACCEPT, "application/x-ndjson, application/json")
            .body(body)
            .map_err(|error| CliError::new(ErrorCode::Failed, error.to_string()))?;
        let response: Response = match &mut self.way {
            Way::Node(sender) => {
                sender.ready().await.map_err(|_| gone())?;
                sender.send_request(request).await.map_err(|_| gone())?.map(Body::new)
            }
            Way::Own(router, _) => {
                router.clone().oneshot(request).await.unwrap_or_else(|never| match never {})
            }
        };
        let success = response.status().is_success();
        let reply = Reply { body: response.into_body() };
        if success { Ok(reply) } else { Err(Failure::read(&reply.all().await?)) }
    }

    /// Asks for a JSON answer.
    ///
    /// # Errors
    /// As [`Client::ask`].
    pub async fn json(&mut self, method: Method, path: &str, body: Body) -> Result<Json, CliError> {
        let bytes = self.ask(method, path, body).await?.all().await?;
        Ok(serde_json::from_slice(&bytes).unwrap_or_default())
    }
}

/// Where the local socket of a topology file's node is.
#[must_use]
pub fn socket_path(spec: &TopologySpec, file: &Path) -> PathBuf {
    Node::socket_path(&Node::data_dir(spec, file))
}

fn gone() -> CliError {
    CliError::new(ErrorCode::Unreachable, "the running node does not answer")
        .with_hint("see its log, or stop it")
}

/// An error of the API.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) error: CliError,
    /// Which item of several it is about, from 0.
    pub(crate) index: Option<usize>,
}

impl From<CliError> for Failure {
    fn from(error: CliError) -> Self {
        Self { error, index: None }
    }
}

impl Failure {
    /// The error that ends a body, if this line is one. A group's line may begin with a field of that name too.
    fn within(line: &[u8]) -> Option<Self> {
        if !line.starts_with(b"{\"error\":") {
            return None;
        }
        let json: Json = serde_json::from_slice(line).ok()?;
        let is_one = json.as_object()?.len() == 1 && json["error"]["code"].is_string();
        (is_one && json["error"]["message"].is_string()).then(|| Self::read(line))
    }

    fn read(body: &[u8]) -> Self {
        let Ok(json) = serde_json::from_slice::<Json>(body) else {
            let text = String::from_utf8_lossy(body);
            return CliError::new(ErrorCode::Failed, format!("the node answers {text:?}")).into();
        };
        let error = &json["error"];
        let text = |key: &str| error[key].as_str().map(str::to_owned);
        let code = ErrorCode::from_word(error["code"].as_str().unwrap_or_default());
        let message = text("message").unwrap_or_else(|| "failed".to_owned());
        let index = error["index"].as_u64().and_then(|index| usize::try_from(index).ok());
        Self { error: CliError { code, message, hint: text("hint") }, index }
    }
}

/// The body of a successful answer.
#[derive(Debug)]
pub struct Reply {
    body: Body,
}

impl Reply {
    async fn all(self) -> Result<Bytes, CliError> {
        axum::body::to_bytes(self.body, MAX_ANSWER).await.map_err(|_| gone())
    }

    /// The body as text.
    ///
    /// # Errors
    /// If the node goes away.
    pub async fn text(self) -> Result<String, CliError> {
        Ok(String::from_utf8_lossy(&self.all().await?).into_owned())
    }

    /// Calls `line` with every line of the body, its line end included.
    ///
    /// # Errors
    /// What `line` answers, and the error that ends a body whose making failed.
    pub async fn lines(
        mut self,
        mut line: impl FnMut(&[u8]) -> Result<(), CliError>,
    ) -> Result<(), CliError> {
        let mut rest: Vec<u8> = Vec::new();
        while let Some(frame) = self.body.frame().await {
            let Ok(data) = frame.map_err(|_| gone())?.into_data() else { continue };
            for piece in data.split_inclusive(|byte| *byte == b'\n') {
                rest.extend_from_slice(piece);
                if rest.ends_with(b"\n") {
                    if let Some(failure) = Failure::within(&rest) {
                        return Err(failure.error);
                    }
                    line(&rest)?;
                    rest.clear();
                }
            }
        }
        if rest.is_empty() { Ok(()) } else { Err(gone()) }
    }
}

/// A text as a part of an address.
#[must_use]
pub fn percent_encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}
