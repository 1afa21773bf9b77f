//! One member of a keyring: a secret, the key pairs that follow from it, and keys wrapped for it.
//!
//! Signatures are ECDSA over P-256 with SHA-256 and the nonces of RFC 6979; wrapping is HPKE (RFC 9180) in base
//! mode with DHKEM(P-256, HKDF-SHA256), HKDF-SHA256 and AES-256-GCM.

use std::fmt;

use hpke::aead::AesGcm256;
use hpke::kdf::HkdfSha256;
use hpke::kem::DhP256HkdfSha256;
use hpke::{Deserializable, Kem, OpModeR, OpModeS, Serializable, single_shot_open, single_shot_seal};
use p256::ecdsa::signature::{Signer, Verifier};
use p256::ecdsa::{Signature, SigningKey, VerifyingKey};
use rand_core::{CryptoRng, RngCore};
use sha2::{Digest, Sha256};

use super::KeyringError;
use crate::seal::{DatabaseKeyId, Secret};

/// Length of an uncompressed P-256 point, in bytes.
const POINT_BYTES: usize = 65;
const WRAP_INFO: &[u8] = b"blazedb keyring 1 wrap";
const SIGN_INFO: &[u8] = b"blazedb keyring 1 sign";

/// Names a member: the first 16 bytes of the SHA-256 hash of its public keys.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberId(pub [u8; 16]);

impl fmt::Display for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemberId({self})")
    }
}

/// What a member is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MemberKind {
    /// A device.
    Device,
    /// Whoever holds an invitation code, until a device has joined with it.
    Invitation,
    /// Whoever holds the recovery phrase.
    Recovery,
    /// Whoever knows the passphrase.
    Passphrase,
}

impl MemberKind {
    pub(super) const ALL: [(u8, Self); 4] =
        [(1, Self::Device), (2, Self::Invitation), (3, Self::Recovery), (4, Self::Passphrase)];

    /// The kind in one word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::Invitation => "invitation",
            Self::Recovery => "recovery",
            Self::Passphrase => "passphrase",
        }
    }
}

/// A member as everybody sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// What it is.
    pub kind: MemberKind,
    /// What it is called.
    pub name: String,
    /// Its public key for signatures: an uncompressed point.
    pub sign_key: [u8; POINT_BYTES],
    /// Its public key for wrapping: an uncompressed point.
    pub wrap_key: [u8; POINT_BYTES],
    /// It may read what was written before it came.
    pub history: bool,
}

impl Member {
    /// Its name among members.
    #[must_use]
    pub fn id(&self) -> MemberId {
        let hash = Sha256::new().chain_update(self.sign_key).chain_update(self.wrap_key).finalize();
        MemberId(hash.first_chunk().copied().unwrap_or_default())
    }

    pub(super) fn verify(&self, message: &[u8], signature: &[u8; 64]) -> Result<(), KeyringError> {
        let key = VerifyingKey::from_sec1_bytes(&self.sign_key).map_err(|_| KeyringError::Signature)?;
        let signature = Signature::from_slice(signature).map_err(|_| KeyringError::Signature)?;
        key.verify(message, &signature).map_err(|_| KeyringError::Signature)
    }

    /// Wraps `secret` so that this member alone can open it; `seed` is 32 random bytes that serve nothing else.
    pub(super) fn wrap(
        &self,
        database: &DatabaseKeyId,
        epoch: u32,
        secret: &[u8],
        seed: &Secret,
    ) -> Result<Vec<u8>, KeyringError> {
        let failed = |_| KeyringError::Wrap;
        let key = <DhP256HkdfSha256 as Kem>::PublicKey::from_bytes(&self.wrap_key).map_err(failed)?;
        let mut rng = SeedRng { seed: seed.derive(&self.id().0, b"blazedb keyring 1 hpke"), used: 0 };
        let (enc, sealed) = single_shot_seal::<AesGcm256, HkdfSha256, DhP256HkdfSha256, _>(
            &OpModeS::Base,
            &key,
            &info(database, epoch),
            secret,
            &self.id().0,
            &mut rng,
        )
        .map_err(failed)?;
        let mut out = enc.to_bytes().to_vec();
        out.extend_from_slice(&sealed);
        Ok(out)
    }
}

fn info(database: &DatabaseKeyId, epoch: u32) -> Vec<u8> {
    [WRAP_INFO, database, &epoch.to_be_bytes()].concat()
}

/// What makes a member: everything that it can do follows from this secret.
#[derive(Clone, Debug)]
pub struct MemberSecret(Secret);

impl MemberSecret {
    /// The member of this secret.
    #[must_use]
    pub const fn new(secret: Secret) -> Self {
        Self(secret)
    }

    /// The secret.
    #[must_use]
    pub const fn secret(&self) -> &Secret {
        &self.0
    }

    /// Its name among members; `None` if the secret is no key, of which there is one in 2^512.
    #[must_use]
    pub fn id(&self) -> Option<MemberId> {
        self.member(MemberKind::Device, "", false).map(|member| member.id())
    }

    /// Its public side.
    #[must_use]
    pub fn member(&self, kind: MemberKind, name: &str, history: bool) -> Option<Member> {
        let sign_key = self.signing_key()?.verifying_key().to_encoded_point(false);
        let (_, wrap_key) = self.wrap_pair();
        Some(Member {
            kind,
            name: name.to_owned(),
            sign_key: sign_key.as_bytes().try_into().ok()?,
            wrap_key: wrap_key.to_bytes().as_slice().try_into().ok()?,
            history,
        })
    }

    fn signing_key(&self) -> Option<SigningKey> {
        // One in 2^32 candidates is no private key.
        (0..16u8).find_map(|attempt| {
            let candidate = self.0.derive(&[attempt], SIGN_INFO);
            SigningKey::from_slice(candidate.as_bytes()).ok()
        })
    }

    fn wrap_pair(&self) -> (<DhP256HkdfSha256 as Kem>::PrivateKey, <DhP256HkdfSha256 as Kem>::PublicKey) {
        DhP256HkdfSha256::derive_keypair(self.0.derive(&[], WRAP_INFO).as_bytes())
    }

    pub(super) fn sign(&self, message: &[u8]) -> Result<[u8; 64], KeyringError> {
        let key = self.signing_key().ok_or(KeyringError::Signature)?;
        let signature: Signature = key.try_sign(message).map_err(|_| KeyringError::Signature)?;
        Ok(signature.to_bytes().into())
    }

    pub(super) fn unwrap(
        &self,
        id: MemberId,
        database: &DatabaseKeyId,
        epoch: u32,
        wrapped: &[u8],
    ) -> Result<Vec<u8>, KeyringError> {
        let failed = |_| KeyringError::Wrap;
        let (enc, sealed) = wrapped.split_at_checked(POINT_BYTES).ok_or(KeyringError::Wrap)?;
        let enc = <DhP256HkdfSha256 as Kem>::EncappedKey::from_bytes(enc).map_err(failed)?;
        let (key, _) = self.wrap_pair();
        single_shot_open::<AesGcm256, HkdfSha256, DhP256HkdfSha256>(
            &OpModeR::Base,
            &key,
            &enc,
            &info(database, epoch),
            sealed,
            &id.0,
        )
        .map_err(failed)
    }
}

/// Gives out what follows from a seed. The caller has drawn the seed at random.
struct SeedRng {
    seed: Secret,
    used: u64,
}

impl RngCore for SeedRng {
    fn next_u32(&mut self) -> u32 {
        rand_core::impls::next_u32_via_fill(self)
    }

    fn next_u64(&mut self) -> u64 {
        rand_core::impls::next_u64_via_fill(self)
    }

    fn fill_bytes(&mut self, dest: &mut [u8]) {
        for chunk in dest.chunks_mut(32) {
            let block = self.seed.derive(&self.used.to_be_bytes(), b"blazedb keyring 1 random");
            self.used += 1;
            chunk.iter_mut().zip(block.as_bytes()).for_each(|(byte, random)| *byte = *random);
        }
    }
}

impl CryptoRng for SeedRng {}
