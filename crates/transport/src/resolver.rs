//! The primitives of `Noise_XX_P256_AESGCM_SHA256` for the Noise library, from `aws-lc-rs`.
//!
//! It resolves these three and nothing else. The library's traits leave no room for some errors; none of them can
//! happen with keys that were checked before (see [`crate::Identity`]), and where one would, the result is a
//! failed handshake and never a panic or an unencrypted byte.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::agreement::{self, PrivateKey, UnparsedPublicKey};
use aws_lc_rs::encoding::{AsBigEndian, EcPrivateKeyBin};
use aws_lc_rs::{digest, rand};
use snow::Error;
use snow::params::{CipherChoice, DHChoice, HashChoice};
use snow::resolvers::CryptoResolver;
use snow::types::{Cipher, Dh, Hash, Random};
use zeroize::Zeroizing;

/// Length of the tag of AES-256-GCM, in bytes.
pub(crate) const TAG_BYTES: usize = 16;

/// Gives the Noise library its primitives.
pub(crate) struct AwsLcResolver;

impl CryptoResolver for AwsLcResolver {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(SystemRandom))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        match choice {
            DHChoice::P256 => Some(Box::new(P256::default())),
            _ => None,
        }
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        match choice {
            HashChoice::SHA256 => Some(Box::new(Sha256::default())),
            _ => None,
        }
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        match choice {
            CipherChoice::AESGCM => Some(Box::new(AesGcm::default())),
            _ => None,
        }
    }
}

/// The key of AES-256-GCM; `None` only if the cryptography library refuses 32 bytes.
pub(crate) fn aes_key(key: &[u8; 32]) -> Option<LessSafeKey> {
    UnboundKey::new(&AES_256_GCM, key).ok().map(LessSafeKey::new)
}

/// Four zero bytes, then the counter in big-endian order (Noise, section 12.3).
pub(crate) fn nonce(counter: u64) -> Nonce {
    let [a, b, c, d, e, f, g, h] = counter.to_be_bytes();
    Nonce::assume_unique_for_key([0, 0, 0, 0, a, b, c, d, e, f, g, h])
}

struct SystemRandom;

impl Random for SystemRandom {
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), Error> {
        rand::fill(dest).map_err(|_| Error::Rng)
    }
}

struct P256 {
    key: Option<PrivateKey>,
    secret: Zeroizing<[u8; 32]>,
    public: [u8; 65],
}

impl Default for P256 {
    fn default() -> Self {
        Self { key: None, secret: Zeroizing::new([0; 32]), public: [0; 65] }
    }
}

impl P256 {
    fn adopt(&mut self, key: PrivateKey) -> Option<()> {
        let secret = AsBigEndian::<EcPrivateKeyBin<'_>>::as_be_bytes(&key).ok()?;
        *self.secret = secret.as_ref().try_into().ok()?;
        self.public = key.compute_public_key().ok()?.as_ref().try_into().ok()?;
        self.key = Some(key);
        Some(())
    }
}

impl Dh for P256 {
    fn name(&self) -> &'static str {
        "P256"
    }

    fn pub_len(&self) -> usize {
        65
    }

    fn priv_len(&self) -> usize {
        32
    }

    fn set(&mut self, privkey: &[u8]) {
        self.key = None;
        if let Ok(key) = PrivateKey::from_private_key(&agreement::ECDH_P256, privkey) {
            self.adopt(key);
        }
    }

    fn generate(&mut self, _: &mut dyn Random) -> Result<(), Error> {
        let key = PrivateKey::generate(&agreement::ECDH_P256).map_err(|_| Error::Rng)?;
        self.adopt(key).ok_or(Error::Rng)
    }

    fn pubkey(&self) -> &[u8] {
        &self.public
    }

    fn privkey(&self) -> &[u8] {
        self.secret.as_ref()
    }

    fn dh(&self, pubkey: &[u8], out: &mut [u8]) -> Result<(), Error> {
        let key = self.key.as_ref().ok_or(Error::Dh)?;
        // Only the uncompressed form: otherwise one key would have several fingerprints.
        let point = pubkey.get(..65).filter(|point| point.first() == Some(&4)).ok_or(Error::Dh)?;
        let peer = UnparsedPublicKey::new(&agreement::ECDH_P256, point);
        agreement::agree(key, peer, Error::Dh, |shared| {
            let out = out.get_mut(..shared.len()).ok_or(Error::Dh)?;
            out.copy_from_slice(shared);
            Ok(())
        })
    }

    fn dh_len(&self) -> usize {
        32
    }
}

#[derive(Default)]
struct AesGcm {
    key: Option<LessSafeKey>,
}

impl Cipher for AesGcm {
    fn name(&self) -> &'static str {
        "AESGCM"
    }

    fn set(&mut self, key: &[u8; 32]) {
        self.key = aes_key(key);
    }

    fn encrypt(&self, counter: u64, authtext: &[u8], plaintext: &[u8], out: &mut [u8]) -> usize {
        let sealed = self.key.as_ref().and_then(|key| {
            let (body, rest) = out.split_at_mut_checked(plaintext.len())?;
            body.copy_from_slice(plaintext);
            let tag = key.seal_in_place_separate_tag(nonce(counter), Aad::from(authtext), body).ok()?;
            rest.get_mut(..TAG_BYTES)?.copy_from_slice(tag.as_ref());
            Some(plaintext.len() + TAG_BYTES)
        });
        sealed.unwrap_or_else(|| {
            out.fill(0);
            0
        })
    }

    fn decrypt(
        &self,
        counter: u64,
        authtext: &[u8],
        ciphertext: &[u8],
        out: &mut [u8],
    ) -> Result<usize, Error> {
        let key = self.key.as_ref().ok_or(Error::Decrypt)?;
        let length = ciphertext.len().checked_sub(TAG_BYTES).ok_or(Error::Decrypt)?;
        let (body, tag) = ciphertext.split_at_checked(length).ok_or(Error::Decrypt)?;
        let out = out.get_mut(..length).ok_or(Error::Decrypt)?;
        key.open_separate_gather(nonce(counter), Aad::from(authtext), body, tag, out)
            .map_err(|_| Error::Decrypt)?;
        Ok(length)
    }
}

struct Sha256(digest::Context);

impl Default for Sha256 {
    fn default() -> Self {
        Self(digest::Context::new(&digest::SHA256))
    }
}

impl Hash for Sha256 {
    fn name(&self) -> &'static str {
        "SHA256"
    }

    fn block_len(&self) -> usize {
        64
    }

    fn hash_len(&self) -> usize {
        32
    }

    fn reset(&mut self) {
        *self = Self::default();
    }

    fn input(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    fn result(&mut self, out: &mut [u8]) {
        let finished = std::mem::replace(&mut self.0, digest::Context::new(&digest::SHA256)).finish();
        for (to, from) in out.iter_mut().zip(finished.as_ref()) {
            *to = *from;
        }
    }
}
