//! The charter: who may form the cluster, once, and until when. Signed by the operator, the same bytes in every seed.

use std::net::IpAddr;

use ring::signature::{ED25519, UnparsedPublicKey};
use serde::{Deserialize, Serialize};

use crate::digest::{Id128, PublicKey, Sha256Digest};
use crate::name::Fqdn;
use crate::version::EtcdVersion;

/// Prefix of the signed bytes, so that a charter's signature can never pass for anything else's.
pub const SIGNATURE_CONTEXT: &[u8] = b"kiln charter v1\n";

/// How long after minting the founder may form the cluster, unless the operator says otherwise: 72 h.
///
/// Long enough to image machines over a weekend; short enough that a node wiped next month cannot start a new, empty cluster.
pub const DEFAULT_FORM_WINDOW_SECS: i64 = 72 * 3600;

/// One member the charter admits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CharterMember {
    /// Its name; DNS must agree.
    pub fqdn: Fqdn,
    /// Its addresses, sorted; the issuer's constraints name the same ones.
    pub addresses: Vec<IpAddr>,
}

/// Who may form the cluster, once, and until when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Charter {
    /// 1.
    pub schema: u32,
    /// The environment: the profile's name.
    pub env: String,
    /// The cluster's identity for its whole life, over all generations.
    pub cluster: Id128,
    /// Counts charters of one cluster; a higher one is minted only after total loss, or to leave out a node that never came.
    pub generation: u64,
    /// Domain of the SRV records.
    pub domain: Fqdn,
    /// Members in canonical order. The denominator of unanimity: DNS can add nothing and take nothing away.
    pub members: Vec<CharterMember>,
    /// The one member that may form.
    pub founder: Fqdn,
    /// Unix seconds before which nothing may be minted or formed.
    pub not_before: i64,
    /// Unix seconds after which the founder no longer forms.
    pub form_until: i64,
    /// Oldest etcd that may serve this cluster.
    pub min_etcd: EtcdVersion,
}

/// Why a charter is not to be believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CharterError {
    /// The signature does not verify with the key in the image.
    #[error(
        "the charter's signature does not verify with the public key in this image; the seed was minted with other keys than the image was built for"
    )]
    Signature,
    /// The signed bytes are not a charter.
    #[error("the charter cannot be read: {0}")]
    Format(String),
    /// A charter of a version this agent does not know.
    #[error("the charter has schema {0}, this agent knows 1")]
    Schema(u32),
    /// Its content contradicts itself.
    #[error("the charter contradicts itself: {0}")]
    Content(String),
}

impl Charter {
    /// The bytes that are signed and shipped. Field order is fixed by the type, so equal charters have equal bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a charter has only strings and numbers")
    }

    /// What the signature covers.
    pub fn signed_bytes(charter: &[u8]) -> Vec<u8> {
        [SIGNATURE_CONTEXT, charter].concat()
    }

    /// Verifies the signature over `bytes`, then reads and checks the charter.
    ///
    /// # Errors
    /// Nothing of an unverified charter is looked at; a verified one must be free of contradictions.
    pub fn open(bytes: &[u8], signature: &[u8], key: &PublicKey) -> Result<Self, CharterError> {
        UnparsedPublicKey::new(&ED25519, key.0)
            .verify(&Self::signed_bytes(bytes), signature)
            .map_err(|_| CharterError::Signature)?;
        let charter: Self = serde_json::from_slice(bytes).map_err(|e| CharterError::Format(e.to_string()))?;
        charter.check()?;
        Ok(charter)
    }

    /// Refuses a charter that contradicts itself; the builder runs this before it signs.
    ///
    /// # Errors
    /// Names the first contradiction.
    pub fn check(&self) -> Result<(), CharterError> {
        let content = |text: String| Err(CharterError::Content(text));
        if self.schema != 1 {
            return Err(CharterError::Schema(self.schema));
        }
        if self.members.is_empty() {
            return content("it has no members".into());
        }
        if !self.members.is_sorted_by(|a, b| a.fqdn < b.fqdn) {
            return content("its members are not sorted, or one is named twice".into());
        }
        let mut addresses: Vec<IpAddr> = self.members.iter().flat_map(|m| m.addresses.iter().copied()).collect();
        addresses.sort();
        if let Some(twice) = addresses.windows(2).find(|pair| pair[0] == pair[1]) {
            return content(format!("address {} belongs to two members", twice[0]));
        }
        if let Some(member) = self.members.iter().find(|m| m.addresses.is_empty()) {
            return content(format!("member {} has no address", member.fqdn));
        }
        if self.member(&self.founder).is_none() {
            return content(format!("founder {} is not a member", self.founder));
        }
        if self.form_until <= self.not_before {
            return content("its window closes before it opens".into());
        }
        Ok(())
    }

    /// The member of that name.
    pub fn member(&self, fqdn: &Fqdn) -> Option<&CharterMember> {
        self.members.iter().find(|m| m.fqdn == *fqdn)
    }

    /// What two nodes compare to know that they hold the same charter.
    pub fn digest(&self) -> Sha256Digest {
        Sha256Digest::of(&self.to_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::charter;
    use ring::signature::{Ed25519KeyPair, KeyPair as _};

    fn sign(charter: &Charter) -> (Vec<u8>, Vec<u8>, PublicKey) {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[9; 32]).unwrap();
        let bytes = charter.to_bytes();
        let signature = pair.sign(&Charter::signed_bytes(&bytes)).as_ref().to_vec();
        (bytes, signature, PublicKey(pair.public_key().as_ref().try_into().unwrap()))
    }

    #[test]
    fn opens_what_the_operator_signed() {
        let (bytes, signature, key) = sign(&charter(3));
        assert_eq!(Charter::open(&bytes, &signature, &key), Ok(charter(3)));
    }

    /// H2: a valid peer certificate does not make a forged charter good.
    #[test]
    fn h02_refuses_every_single_flipped_bit() {
        let (bytes, signature, key) = sign(&charter(3));
        for i in 0..bytes.len() {
            let mut bent = bytes.clone();
            bent[i] ^= 1;
            assert_eq!(Charter::open(&bent, &signature, &key), Err(CharterError::Signature), "byte {i}");
        }
        let raw = UnparsedPublicKey::new(&ED25519, key.0).verify(&bytes, &signature);
        assert!(raw.is_err(), "a signature without the context must not verify");
    }

    #[test]
    fn the_window_is_open_for_three_days() {
        assert_eq!(DEFAULT_FORM_WINDOW_SECS, 259_200);
    }

    #[test]
    fn refuses_contradictions() {
        let bend = |f: &dyn Fn(&mut Charter)| {
            let mut charter = charter(3);
            f(&mut charter);
            charter.check()
        };
        let contradiction = |f: &dyn Fn(&mut Charter), words: &str| {
            let Err(CharterError::Content(text)) = bend(f) else { panic!("no contradiction: {words}") };
            assert!(text.contains(words), "{text}");
        };
        contradiction(&|c| c.members.clear(), "no members");
        contradiction(&|c| c.members.swap(0, 1), "not sorted");
        contradiction(&|c| c.members[1].fqdn = c.members[0].fqdn.clone(), "named twice");
        contradiction(&|c| c.members[1].addresses = c.members[0].addresses.clone(), "belongs to two members");
        contradiction(&|c| c.members[1].addresses.clear(), "has no address");
        contradiction(&|c| c.founder = Fqdn::parse("x.lab.example").unwrap(), "is not a member");
        contradiction(&|c| c.form_until = c.not_before, "closes before it opens");
        contradiction(&|c| c.form_until = c.not_before - 1, "closes before it opens");
        assert_eq!(bend(&|c| c.schema = 2), Err(CharterError::Schema(2)));
    }
}
