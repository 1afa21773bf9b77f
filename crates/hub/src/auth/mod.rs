//! Who the other side is: tokens are verified here, issued here, and withdrawn here.
//!
//! [`Authenticator`] turns the key of a handshake and the token of a hello into a [`Peer`]; what that peer may do is
//! not decided here. Specification: `docs/spec/tokens.md`.

mod authenticator;
mod binding;
mod claims;
mod inspect;
mod invite;
mod issue;
mod keys;
mod live;
mod peer;
mod refusal;
mod revoked;
#[cfg(test)]
mod tests;
mod verify;

pub(crate) use authenticator::now_s;
pub use authenticator::{AuthError, Authenticator, own_issuer, revoked_file};
pub use binding::{Binding, BindingError, thumbprint};
pub use inspect::{Inspected, shown_time, store_token};
pub(crate) use invite::INVITATION_ROUTE;
pub use invite::{Invitation, InvitationError, Inviter, accept_invitation, invite};
pub use issue::{IssueError, OWN_ISSUER, OwnIssuer, TokenRequest};
pub use keys::{IssuerKey, KeyFileError};
pub use live::Place;
pub(crate) use live::Stays;
pub use peer::Peer;
pub use refusal::TokenRefusal;
pub use revoked::{Revocation, RevocationError, RevokedList};
pub use verify::{CLOCK_LEEWAY_S, TrustedIssuer, Verified, verify};
