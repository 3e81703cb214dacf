//! The proof that a takeover carries: HMAC-SHA-256 (RFC 2104, FIPS 180-4) under the leg's secret over
//! server ‖ boot id ‖ handle ‖ meeting ‖ leg ‖ epoch ‖ holder (SPEC T-2). Bound to all of these, it is of
//! no use on another server, in another life of its table, for another leg or for another token.

use crate::ids::{BootId, Handle, LegId, Secret, ServerId, Token};
use crate::wire::Wire;
use bytes::BytesMut;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// What a proof speaks of.
#[derive(Debug, Clone, Copy)]
pub struct Claim {
    /// The server that is asked.
    pub server: ServerId,
    /// The life of its table.
    pub boot: BootId,
    /// Its name of the leg.
    pub handle: Handle,
    /// Our name of the leg.
    pub leg: LegId,
    /// Who wants to command.
    pub token: Token,
}

/// The 32 bytes of a proof.
pub type Proof = [u8; 32];

/// Makes the proof of `claim`.
#[must_use]
pub fn prove(secret: &Secret, claim: &Claim) -> Proof {
    mac(secret, claim).finalize().into_bytes().into()
}

/// Checks a proof in constant time.
#[must_use]
pub fn verify(secret: &Secret, claim: &Claim, proof: &Proof) -> bool {
    mac(secret, claim).verify_slice(proof).is_ok()
}

fn mac(secret: &Secret, claim: &Claim) -> Hmac<Sha256> {
    let mut text = BytesMut::with_capacity(80);
    claim.server.put(&mut text);
    claim.boot.put(&mut text);
    claim.handle.put(&mut text);
    claim.leg.put(&mut text);
    claim.token.put(&mut text);
    // HMAC takes keys of every length; 16 bytes cannot be refused.
    #[allow(clippy::expect_used)]
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.expose()).expect("HMAC takes any key length");
    mac.update(&text);
    mac
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Epoch, Holder, MeetingId};

    #[test]
    fn a_proof_is_of_no_use_for_any_other_claim() {
        let secret = Secret::new([7; 16]);
        let claim = Claim {
            server: ServerId(1),
            boot: BootId::from_bytes([2; 16]),
            handle: Handle(3),
            leg: LegId { meeting: MeetingId::from_bytes([4; 16]), leg: 0 },
            token: Token { epoch: Epoch(5), holder: Holder::from_bytes([6; 16]) },
        };
        let proof = prove(&secret, &claim);
        assert!(verify(&secret, &claim, &proof));
        assert!(!verify(&Secret::new([8; 16]), &claim, &proof));
        let others = [
            Claim { server: ServerId(2), ..claim },
            Claim { boot: BootId::from_bytes([3; 16]), ..claim },
            Claim { handle: Handle(4), ..claim },
            Claim { leg: LegId { leg: 1, ..claim.leg }, ..claim },
            Claim { leg: LegId { meeting: MeetingId::from_bytes([5; 16]), ..claim.leg }, ..claim },
            Claim { token: Token { epoch: Epoch(6), ..claim.token }, ..claim },
            Claim { token: Token { holder: Holder::from_bytes([7; 16]), ..claim.token }, ..claim },
        ];
        for other in others {
            assert!(!verify(&secret, &other, &proof), "{other:?}");
        }
    }
}
