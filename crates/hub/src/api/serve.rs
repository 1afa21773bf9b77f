//! Where the API is served: the local socket in the node's data directory, and the admin address.
//!
//! Invariants: nobody but the user who runs the node can connect to the socket; a socket that a crashed node left
//! behind is replaced, one that is served is not.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::serve::ListenerExt as _;
use tokio::net::{TcpListener, UnixSocket, UnixStream};
use tokio::task::JoinHandle;

use super::AdminRoutes;
use super::error::{ApiCode, ApiError};
use super::guard::{Guard, check};
use super::login::Logins;

/// What the address of a Unix socket has room for, in bytes, on every system that has them.
const MAX_SOCKET_PATH: usize = 100;
/// Connections that may wait to be accepted.
const BACKLOG: u32 = 128;

/// The API can't be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// A node of this data directory is running.
    #[error("{}: another node runs on this data directory", .0.display())]
    Running(PathBuf),
    /// The socket can't be made.
    #[error("{}: can't serve the local socket: {}", .0.display(), .1)]
    Socket(PathBuf, #[source] io::Error),
    /// The address can't be listened on.
    #[error("admin address {0}: can't listen: {1}")]
    Admin(String, #[source] io::Error),
    /// Other machines reach the address, and no token is asked for.
    #[error(
        "admin address {0} is reached by other machines: set `admin_token_file`, or use a loopback address"
    )]
    Exposed(SocketAddr),
    /// The system has no random numbers to sign logins with.
    #[error("admin address: the system's random source failed")]
    NoRandomness,
    /// The token can't be read, or is none.
    #[error("admin_token_file {}: {}", .0.display(), .1)]
    Token(PathBuf, String),
}

impl From<ServeError> for ApiError {
    fn from(error: ServeError) -> Self {
        let code = match &error {
            ServeError::Running(_) => ApiCode::Locked,
            ServeError::Admin(_, io) if io.kind() == ErrorKind::AddrInUse => ApiCode::Conflict,
            ServeError::Socket(..) | ServeError::Admin(..) | ServeError::NoRandomness => ApiCode::Io,
            ServeError::Token(..) | ServeError::Exposed(_) => ApiCode::Config,
        };
        Self::new(code, error.to_string())
    }
}

/// Serves a router on the local socket; no longer once it is dropped.
#[derive(Debug)]
pub struct LocalServer {
    path: PathBuf,
    task: JoinHandle<()>,
}

impl LocalServer {
    /// Serves `router` on the socket `path`. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// [`ServeError::Running`] if somebody serves it already, [`ServeError::Socket`] if it can't be made.
    pub async fn start(path: PathBuf, router: Router) -> Result<Self, ServeError> {
        if connect_local(&path).await.is_ok() {
            return Err(ServeError::Running(path));
        }
        let failed = |error| ServeError::Socket(path.clone(), error);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let listener = listen(&path).map_err(failed)?;
        let task = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                tracing::warn!(%error, "the local socket is no longer served");
            }
        });
        Ok(Self { path, task })
    }
}

fn listen(path: &Path) -> io::Result<tokio::net::UnixListener> {
    let short = ShortPath::of(path)?;
    let socket = UnixSocket::new_stream()?;
    socket.bind(&short.path)?;
    // Nobody can connect before `listen`, so nobody slips in before the permissions are set.
    fs::set_permissions(&short.path, Permissions::from_mode(0o600))?;
    socket.listen(BACKLOG)
}

impl Drop for LocalServer {
    fn drop(&mut self) {
        self.task.abort();
        let _ = fs::remove_file(&self.path);
    }
}

/// Connects to the local socket of a node.
///
/// # Errors
/// If nobody serves it.
pub async fn connect_local(path: &Path) -> io::Result<UnixStream> {
    let short = ShortPath::of(path)?;
    UnixStream::connect(&short.path).await
}

/// A path that fits into a socket's address; a long one leads through the open directory.
struct ShortPath {
    path: PathBuf,
    _directory: Option<File>,
}

impl ShortPath {
    fn of(path: &Path) -> io::Result<Self> {
        if path.as_os_str().len() <= MAX_SOCKET_PATH {
            return Ok(Self { path: path.to_owned(), _directory: None });
        }
        let directory = File::open(path.parent().unwrap_or(Path::new(".")))?;
        let descriptors = Path::new("/proc/self/fd");
        if !descriptors.exists() {
            let text = "the path is too long for a socket: use a data directory with a shorter one";
            return Err(io::Error::new(ErrorKind::InvalidInput, text));
        }
        let name = path.file_name().unwrap_or(OsStr::new("node.sock"));
        let path = descriptors.join(directory.as_raw_fd().to_string()).join(name);
        Ok(Self { path, _directory: Some(directory) })
    }
}

/// Serves a router on the admin address; no longer once it is dropped.
#[derive(Debug)]
pub struct AdminServer {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl AdminServer {
    /// Serves `routes` on `address` to who may use them. With a `token_file` whoever connects has to show that token, or
    /// one of a user.
    ///
    /// # Errors
    /// [`ServeError::Admin`] and [`ServeError::Token`].
    pub async fn start(
        address: &str,
        token_file: Option<&Path>,
        routes: impl Into<AdminRoutes>,
    ) -> Result<Self, ServeError> {
        let token = token_file.map(read_token).transpose()?;
        let AdminRoutes { all, users } = routes.into();
        let (auth, users) = users.map_or_else(Default::default, |(auth, users)| (Some(auth), users));
        let logins = Arc::new(Logins::new(token, auth).ok_or(ServeError::NoRandomness)?);
        let failed = |error| ServeError::Admin(address.to_owned(), error);
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let bound = listener.local_addr().map_err(failed)?;
        if !logins.needs_token() && !bound.ip().to_canonical().is_loopback() {
            return Err(ServeError::Exposed(bound));
        }
        let guarded = all.layer(from_fn_with_state(Guard { logins, users }, check));
        let task = tokio::spawn(async move {
            let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
            if let Err(error) = axum::serve(listener, guarded).await {
                tracing::warn!(%error, "the admin address is no longer served");
            }
        });
        Ok(Self { address: bound, task })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for AdminServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn read_token(path: &Path) -> Result<Arc<str>, ServeError> {
    let text =
        fs::read_to_string(path).map_err(|error| ServeError::Token(path.to_owned(), error.to_string()))?;
    match text.trim() {
        "" => Err(ServeError::Token(path.to_owned(), "it is empty".to_owned())),
        token => Ok(Arc::from(token)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_is_private_short_enough_and_replaced_only_when_dead() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("d".repeat(120));
        fs::create_dir(&deep).unwrap();
        for data in [dir.path(), &deep] {
            let path = data.join("node.sock");
            // What a crash leaves behind.
            drop(listen(&path).unwrap());
            assert!(path.exists());
            let server = LocalServer::start(path.clone(), Router::new()).await.unwrap();
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            connect_local(&path).await.unwrap();
            let second = LocalServer::start(path.clone(), Router::new()).await;
            assert!(matches!(second, Err(ServeError::Running(_))));
            drop(server);
            assert!(!path.exists());
        }
    }
}
