//! What the HTTP API answers when it can't do what was asked.
//!
//! Invariant: every failure has one code, and the code decides the HTTP status here and the exit code of the
//! command line.

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use blazedb::{Filter, KeyringError, RecordId, StoreError};
use blazedb_core::filter::FilterError;
use blazedb_core::json::JsonError;
use blazedb_transport::{IdentityError, PinError};
use serde_json::{Value as Json, json};

use crate::node::NodeError;

/// The longest reason of the framework, in bytes.
const MAX_REASON: usize = 4 << 10;

/// What kind of failure it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ApiCode {
    /// The request makes no sense.
    Usage,
    /// The topology file asks for what can't be done.
    Config,
    /// The operation failed for another reason.
    Failed,
    /// No such record, database or file.
    NotFound,
    /// It exists already.
    Conflict,
    /// An input is not valid: a filter, a record.
    Invalid,
    /// The system refused to read or write.
    Io,
    /// Another process has the database open.
    Locked,
    /// Not offered here.
    Unavailable,
    /// The other side could not be reached.
    Unreachable,
    /// The other side did not answer in time.
    Timeout,
    /// Who is asking is not known.
    Unauthenticated,
    /// Who is asking may not.
    Forbidden,
    /// The file is damaged.
    Damaged,
    /// The password is wrong.
    WrongPassword,
}

impl ApiCode {
    /// The word in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Usage => "usage",
            Self::Config => "config",
            Self::Failed => "failed",
            Self::NotFound => "not_found",
            Self::Conflict => "conflict",
            Self::Invalid => "invalid",
            Self::Io => "io",
            Self::Locked => "locked",
            Self::Unavailable => "unavailable",
            Self::Unreachable => "unreachable",
            Self::Timeout => "timeout",
            Self::Unauthenticated => "unauthenticated",
            Self::Forbidden => "forbidden",
            Self::Damaged => "damaged",
            Self::WrongPassword => "wrong_password",
        }
    }

    /// The HTTP status.
    #[must_use]
    pub const fn status(self) -> StatusCode {
        match self {
            Self::Usage | Self::Invalid => StatusCode::BAD_REQUEST,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::Conflict => StatusCode::CONFLICT,
            Self::Locked => StatusCode::LOCKED,
            Self::Unavailable => StatusCode::NOT_IMPLEMENTED,
            Self::Unreachable => StatusCode::BAD_GATEWAY,
            Self::Timeout => StatusCode::GATEWAY_TIMEOUT,
            Self::Unauthenticated => StatusCode::UNAUTHORIZED,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::Config => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Failed | Self::Io | Self::Damaged | Self::WrongPassword => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
        }
    }
}

/// A request failed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// What kind of failure.
    pub code: ApiCode,
    /// What is wrong, and where.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// Which item of several it is about, from 0.
    pub index: Option<usize>,
}

impl ApiError {
    /// A failure without a hint.
    #[must_use]
    pub fn new(code: ApiCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None, index: None }
    }

    /// The same with what to do about it.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub(super) const fn at(mut self, index: usize) -> Self {
        self.index = Some(index);
        self
    }

    pub(super) fn no_record(database: &str, id: RecordId) -> Self {
        Self::new(ApiCode::NotFound, format!("database {database}: no record {id}"))
    }

    /// The object that programs read.
    #[must_use]
    pub fn to_json(&self) -> Json {
        let mut error = json!({ "code": self.code.as_str(), "message": self.message, "hint": self.hint });
        if let (Some(index), Some(object)) = (self.index, error.as_object_mut()) {
            object.insert("index".to_owned(), index.into());
        }
        json!({ "error": error })
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.code.status(), axum::Json(self.to_json())).into_response();
        if self.code == ApiCode::Unauthenticated {
            let bearer = header::HeaderValue::from_static("Bearer");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, bearer);
        }
        response
    }
}

/// Errors of the framework, such as of a body that is too large, in the form of all others.
pub(super) async fn in_json(response: Response) -> Response {
    let status = response.status();
    let kind = response.headers().get(header::CONTENT_TYPE).map(header::HeaderValue::as_bytes);
    let plain = kind.is_some_and(|kind| kind.starts_with(b"text/plain"));
    if !plain || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let text = axum::body::to_bytes(response.into_body(), MAX_REASON).await.unwrap_or_default();
    let error = ApiError::new(ApiCode::Usage, String::from_utf8_lossy(&text));
    let error = match status {
        StatusCode::PAYLOAD_TOO_LARGE => error.with_hint("a request has at most 32 MiB: send it in parts"),
        _ => error,
    };
    (status, axum::Json(error.to_json())).into_response()
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        use ApiCode::{Conflict, Damaged, Failed, Invalid, Io, Locked, NotFound, WrongPassword};
        let code = match &error {
            StoreError::WrongPassword(_) | StoreError::PasswordMismatch(..) => WrongPassword,
            // Whatever is decoded here was read from the file.
            StoreError::Damaged(..) | StoreError::Malformed(_) => Damaged,
            StoreError::InUse(..) => Locked,
            StoreError::NotFound(_) | StoreError::NoRecord(_) | StoreError::NoRejected(_) => NotFound,
            StoreError::Exists(_) | StoreError::RecordExists(_) => Conflict,
            StoreError::Restricted { .. } | StoreError::Dangling { .. } => Conflict,
            StoreError::DiskFull(_) | StoreError::Io(..) | StoreError::Sqlite(..) => Io,
            StoreError::WrongType { .. }
            | StoreError::FieldName(..)
            | StoreError::TransactionTooLarge { .. }
            | StoreError::Encode { .. }
            | StoreError::Query(_)
            | StoreError::Typed(_)
            | StoreError::Drift(_) => Invalid,
            StoreError::Keyring(KeyringError::Code(_)) => Invalid,
            StoreError::Keyring(
                KeyringError::NotMember
                | KeyringError::NotAllowed(_)
                | KeyringError::ForeignRoot
                | KeyringError::UnknownCode
                | KeyringError::SpentCode,
            ) => ApiCode::Forbidden,
            StoreError::Keyring(_) => Conflict,
            _ => Failed,
        };
        let failed = Self::new(code, error.to_string());
        match code {
            WrongPassword => {
                failed.with_hint("give the password that the file was made with; it can't be recovered")
            }
            _ => failed,
        }
    }
}

impl From<NodeError> for ApiError {
    fn from(error: NodeError) -> Self {
        let message = error.to_string();
        let io = |code| Self::new(code, message.clone());
        match error {
            NodeError::Store { error, .. } => Self { message, ..Self::from(error) },
            NodeError::Listen { error, .. } if error.kind() == std::io::ErrorKind::AddrInUse => io(
                ApiCode::Conflict,
            )
            .with_hint("another process listens there: stop it, or change the address in the topology file"),
            NodeError::Listen { .. } | NodeError::Data { .. } => io(ApiCode::Io),
            NodeError::Identity(IdentityError::Damaged { .. }) => io(ApiCode::Damaged),
            NodeError::Identity(_) | NodeError::Pins(PinError::File { .. }) => io(ApiCode::Io),
            _ => io(ApiCode::Config),
        }
    }
}

impl From<JsonError> for ApiError {
    fn from(error: JsonError) -> Self {
        Self::new(ApiCode::Invalid, error.to_string())
    }
}

impl From<FilterError> for ApiError {
    fn from(error: FilterError) -> Self {
        Self::new(ApiCode::Invalid, format!("filter, {error}"))
            .with_hint("filters look like: status == \"open\" && priority > 5")
    }
}

pub(super) fn parse_filter(text: Option<&str>) -> Result<Option<Filter>, ApiError> {
    Ok(text.map(Filter::parse).transpose()?)
}
