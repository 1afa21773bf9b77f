//! Invitations: a one-time code with which a device gets a token that is bound to its key.
//!
//! The code names the hub, the fingerprint of its key, and a secret. The hub keeps a file for each invitation under a
//! hash of the secret; whoever removes the file has redeemed it, so two can't. The exchange is one message each way
//! over a connection to [`INVITATION_ROUTE`]: see `docs/spec/tokens.md`.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use blazedb::{CloseCode, Connection, Endpoint, Fingerprint, Identity, PinPolicy, Token};
use blazedb_core::limits::HANDSHAKE_MS;
use blazedb_core::topology::AuthSpec;
use blazedb_core::wire::Message;
use blazedb_transport::files;
use blazedb_transport::ws::{self, ConnectError, ConnectOptions};
use serde::{Deserialize, Serialize};

use super::authenticator::{now_s, own_issuer};
use super::binding::Binding;
use super::issue::{IssueError, TokenRequest};

/// Where invitations are redeemed: no database can have this name.
pub(crate) const INVITATION_ROUTE: &str = ".invitation";
const PREFIX: &str = "blzinv1-";
const KEY_BYTES: usize = 32;
const SECRET_BYTES: usize = 16;

/// An invitation, as its code says it.
#[derive(Clone, PartialEq, Eq)]
pub struct Invitation {
    /// The hub's address.
    pub hub: Endpoint,
    /// The fingerprint of the hub's key.
    pub key: Fingerprint,
    secret: [u8; SECRET_BYTES],
}

/// An invitation can't be made or redeemed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InvitationError {
    /// Not a code.
    #[error("this is not an invitation's code: it begins with {PREFIX:?} and is copied whole")]
    Code,
    /// A file or directory of invitations.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// There is no such invitation, or no longer.
    #[error("the invitation is not known here: it has been used, or its time is over; ask for another one")]
    Unknown,
    /// The token can't be issued.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// The hub can't be reached, or is not the one that invited.
    #[error(transparent)]
    Connect(#[from] Box<ConnectError>),
    /// The hub broke off.
    #[error("{0}: the hub ended the connection without an answer; try again")]
    Silent(Endpoint),
    /// The hub says no.
    #[error("{hub}: refused: {reason}")]
    Refused {
        /// Its address.
        hub: Endpoint,
        /// Its words.
        reason: String,
    },
}

impl std::fmt::Display for Invitation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let bytes = [self.key.as_bytes(), &self.secret[..], self.hub.to_string().as_bytes()].concat();
        write!(f, "{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
    }
}

impl std::fmt::Debug for Invitation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Invitation").field("hub", &self.hub).field("key", &self.key).finish_non_exhaustive()
    }
}

impl std::str::FromStr for Invitation {
    type Err = InvitationError;

    fn from_str(text: &str) -> Result<Self, InvitationError> {
        let read = || {
            let bytes = URL_SAFE_NO_PAD.decode(text.trim().strip_prefix(PREFIX)?).ok()?;
            let (key, rest) = bytes.split_first_chunk::<KEY_BYTES>()?;
            let (secret, hub) = rest.split_first_chunk::<SECRET_BYTES>()?;
            let hub = std::str::from_utf8(hub).ok()?.parse().ok()?;
            Some(Self { hub, key: Fingerprint::from_bytes(*key), secret: *secret })
        };
        read().ok_or(InvitationError::Code)
    }
}

/// What the hub keeps of an invitation.
#[derive(Serialize, Deserialize)]
struct Kept {
    /// In seconds since the Unix epoch.
    expires: u64,
    token: TokenRequest,
}

/// Makes an invitation of the hub at `hub` with the key `key`, for a token that says `request`. It may be redeemed
/// until `expires_s` (seconds since the Unix epoch). Invitations whose time is over are cleared away.
///
/// # Errors
/// [`InvitationError::File`], [`InvitationError::Issue`].
pub fn invite(
    data: &Path,
    hub: Endpoint,
    key: Fingerprint,
    request: &TokenRequest,
    expires_s: u64,
) -> Result<Invitation, InvitationError> {
    request.check()?;
    let mut secret = [0; SECRET_BYTES];
    aws_lc_rs::rand::fill(&mut secret).map_err(|_| IssueError::Sign)?;
    let directory = directory(data);
    let failed = |source| InvitationError::File { path: directory.clone(), source };
    std::fs::create_dir_all(&directory).map_err(failed)?;
    clear(&directory, now_s());
    let kept = Kept { expires: expires_s, token: request.clone() };
    let text = serde_json::to_string(&kept).map_err(|error| failed(error.into()))?;
    files::create(&directory.join(file_name(&secret)), &text).map_err(failed)?;
    Ok(Invitation { hub, key, secret })
}

/// Redeems an invitation at its hub, for the node with this identity.
///
/// # Errors
/// [`InvitationError`].
pub async fn accept_invitation(
    invitation: &Invitation,
    identity: &Identity,
) -> Result<Token, InvitationError> {
    let Invitation { hub, key, secret } = invitation;
    let (pins, options) = (PinPolicy::Exactly(*key), ConnectOptions::default());
    let connected = ws::connect(hub, INVITATION_ROUTE, INVITATION_ROUTE, identity, &pins, &options).await;
    let mut connection = connected.map_err(Box::new)?;
    let silent = || InvitationError::Silent(hub.clone());
    let secret = URL_SAFE_NO_PAD.encode(secret).parse().map_err(|_| InvitationError::Code)?;
    say(&mut connection, &Message::Token(secret)).await.ok_or_else(silent)?;
    match hear(&mut connection).await.ok_or_else(silent)? {
        Message::Token(token) => Ok(token),
        Message::Close(_, reason) => Err(InvitationError::Refused { hub: hub.clone(), reason }),
        _ => Err(silent()),
    }
}

/// The side that invited: issues tokens for those who come with a code.
#[derive(Clone, Debug)]
pub struct Inviter {
    /// The issuers that the node accepts, itself among them.
    pub spec: AuthSpec,
    /// What paths of `spec` are relative to.
    pub base: PathBuf,
    /// The directory of the node's own files.
    pub data: PathBuf,
}

impl Inviter {
    /// Answers one caller.
    pub(crate) async fn serve(self, mut connection: Connection) {
        let Some(Message::Token(secret)) = hear(&mut connection).await else { return };
        let (node, binding) = (connection.node_id(), Binding::to_key(&connection.remote));
        let issued = tokio::task::spawn_blocking(move || self.issue(&secret, &binding)).await;
        let answer = match issued {
            Ok(Ok(token)) => {
                tracing::info!(%node, "an invitation was accepted");
                Message::Token(token)
            }
            Ok(Err(error)) => {
                tracing::warn!(%node, %error, "an invitation was refused");
                // What is wrong with this node's files is not the caller's business.
                let reason = match error {
                    InvitationError::Unknown => error.to_string(),
                    _ => "this node can't issue tokens at the moment: its log says why".to_owned(),
                };
                Message::Close(CloseCode::Unauthenticated, reason)
            }
            Err(_) => return,
        };
        let _ = say(&mut connection, &answer).await;
    }

    fn issue(&self, secret: &Token, binding: &Binding) -> Result<Token, InvitationError> {
        let secret = URL_SAFE_NO_PAD.decode(secret.as_str()).map_err(|_| InvitationError::Unknown)?;
        let (issuer, name, _) = own_issuer(&self.spec, &self.base, &self.data)?;
        let request = redeem(&self.data, &secret, now_s())?;
        Ok(issuer.issue(&name, &request, Some(binding), now_s())?)
    }
}

/// Takes the invitation with this secret: it can't be taken again.
fn redeem(data: &Path, secret: &[u8], now_s: u64) -> Result<TokenRequest, InvitationError> {
    let path = directory(data).join(file_name(secret));
    let failed = |source| InvitationError::File { path: path.clone(), source };
    let text = files::read_text(&path).map_err(failed)?.ok_or(InvitationError::Unknown)?;
    match files::remove(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(InvitationError::Unknown),
        removed => removed.map_err(failed)?,
    }
    let kept: Kept = serde_json::from_str(&text).map_err(|error| failed(error.into()))?;
    if kept.expires <= now_s { Err(InvitationError::Unknown) } else { Ok(kept.token) }
}

/// Removes the invitations whose time is over. What can't be removed is refused all the same.
fn clear(directory: &Path, now_s: u64) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let text = files::read_text(&entry.path()).ok().flatten().unwrap_or_default();
        if serde_json::from_str::<Kept>(&text).is_ok_and(|kept| kept.expires <= now_s) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

fn directory(data: &Path) -> PathBuf {
    data.join("invitations")
}

/// A name from which the secret can't be told.
fn file_name(secret: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, secret))
}

async fn say(connection: &mut Connection, message: &Message) -> Option<()> {
    let sent = async {
        connection.sender.send(&[&message.encode()]).await?;
        connection.sender.flush().await
    };
    tokio::time::timeout(Duration::from_millis(HANDSHAKE_MS), sent).await.ok()?.ok()
}

/// The next message, if it comes in time.
async fn hear(connection: &mut Connection) -> Option<Message> {
    let wait = Duration::from_millis(HANDSHAKE_MS);
    let frame = tokio::time::timeout(wait, connection.receiver.recv()).await.ok()?.ok()??;
    Message::decode(&frame).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> TokenRequest {
        TokenRequest { user: "anna".to_owned(), ttl_s: 60, ..TokenRequest::default() }
    }

    #[test]
    fn a_code_is_redeemed_once_and_in_time() {
        let dir = tempfile::tempdir().unwrap();
        let hub: Endpoint = "ws://127.0.0.1:7500".parse().unwrap();
        let make =
            |expires| invite(dir.path(), hub.clone(), Fingerprint::from_bytes([7; 32]), &request(), expires);
        let made = make(now_s() + 60).unwrap();
        let read: Invitation = made.to_string().parse().unwrap();
        assert_eq!(read, made);
        assert!(!format!("{made:?}").contains(&URL_SAFE_NO_PAD.encode(made.secret)));
        assert!(matches!(redeem(dir.path(), &[1; 16], now_s()), Err(InvitationError::Unknown)));
        assert_eq!(redeem(dir.path(), &read.secret, now_s()).unwrap(), request());
        assert!(matches!(redeem(dir.path(), &read.secret, now_s()), Err(InvitationError::Unknown)));
        let late = make(now_s() + 60).unwrap();
        assert!(matches!(redeem(dir.path(), &late.secret, now_s() + 60), Err(InvitationError::Unknown)));
        make(0).unwrap();
        make(now_s() + 60).unwrap();
        assert_eq!(std::fs::read_dir(directory(dir.path())).unwrap().count(), 1);
    }

    #[test]
    fn what_is_no_code_is_refused() {
        for text in ["", "blzinv1-", "blzinv1-AAAA", "blzinv2-AAAA", &format!("blzinv1-{}", "A".repeat(70))] {
            assert!(matches!(text.parse::<Invitation>(), Err(InvitationError::Code)), "{text}");
        }
    }
}
