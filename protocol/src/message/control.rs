//! Control of a server and of its legs: attach, takeover, adoption (SPEC T-1 to T-9).

use crate::error::ErrorCode;
use crate::ids::{BootId, Handle, LegId, Secret, Token};
use crate::proof::Proof;
use crate::record::Mark;

wire_struct! {
    /// Asks for control of the server. From its answer on every older token is refused (rule 2).
    pub struct Attach {
        /// Who wants to command.
        token: Token,
    }
}

wire_struct! {
    /// Answer to [`Attach`].
    pub struct Attached {
        /// The session number that later headers carry for (boot id, epoch, holder).
        session: u64,
        /// The life of the server's table.
        boot: BootId,
        /// The table's revision.
        table_revision: u64,
    }
}

wire_struct! {
    /// One leg to take over.
    pub struct TakeoverClaim {
        /// The server's name of the leg.
        handle: Handle,
        /// Our name of it.
        leg: LegId,
        /// The proof (SPEC T-2).
        proof: Proof,
    }
}

wire_struct! {
    /// Asks for control of legs: 1 to 14 in one packet, so that their results fit one too (SPEC T-4).
    /// Needs an attached session.
    pub struct Takeover {
        /// The legs.
        claims: Vec<TakeoverClaim>,
    }
}

impl Takeover {
    /// The most claims of one packet. 17 would fit it, but the answer to them has 1216 bytes.
    pub const CLAIMS_MAX: usize = 14;
}

wire_struct! {
    /// What became of one claim.
    pub struct TakeoverResult {
        /// The server's name of the leg.
        handle: Handle,
        /// Our name of it.
        leg: LegId,
        /// `ok`, `stale token`, `bad key`, `unknown meeting`, `ended`, `busy`.
        code: ErrorCode,
        /// With `busy`: wait this long, milliseconds.
        retry_after_ms: u32,
        /// With `ok`: the leg's content now.
        mark: Mark,
        /// With `ok`: the last intent number executed on the leg.
        intent: u64,
    }
}

wire_struct! {
    /// Answer to [`Takeover`]: a result for each claim, in its order.
    pub struct TakeoverAnswer {
        /// The life of the table.
        boot: BootId,
        /// The table's revision at the answer.
        table_revision: u64,
        /// The results.
        results: Vec<TakeoverResult>,
    }
}

wire_struct! {
    /// Gives an orphan a new key (and, for a foreign or ended meeting id, a new id). Servers permit it
    /// by configuration; the scheduler sends it only for an operator's right. Repeating it with the same
    /// secret is the same adoption.
    pub struct Adopt {
        /// The server's name of the leg.
        handle: Handle,
        /// Its name so far.
        old: LegId,
        /// Its name from now on; the same as `old` where that is ours.
        new: LegId,
        /// The new secret.
        secret: Secret,
        /// The new key's generation.
        generation: u64,
    }
}

wire_struct! {
    /// Answer to [`Adopt`]: the leg is then commanded by the session's token.
    pub struct AdoptAnswer {
        /// `ok`, `not allowed`, `unknown meeting`, `ended`, `exists`.
        code: ErrorCode,
        /// The life of the table.
        boot: BootId,
        /// The table's revision.
        table_revision: u64,
        /// The leg's content now.
        mark: Mark,
        /// The last intent number executed on the leg.
        intent: u64,
    }
}
