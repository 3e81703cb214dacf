//! Rows to values, the same for both databases. What cannot be read is an `Err` that says why; the
//! caller quarantines that row (design §2: nothing is deleted because it failed).

use super::reads::Marked;
use super::text::original;
use crate::model::{ClientAnswerRow, CommandId, Intent, RecoveryKey, StoredLeg, StoredState};
use remeet_protocol::message::Op;
use remeet_protocol::record::{Digest, Mark};
use remeet_protocol::wire::{Input, Text, Wire};
use remeet_protocol::{BootId, DomainId, Epoch, ErrorCode, Handle, LegId, MeetingId, Secret, ServerId};
use uuid::Uuid;

/// The format of rows that this version writes and reads.
pub(super) const FORMAT: i16 = 1;

/// Why a row could not be read.
pub(super) type Bad = String;

/// Cells of a row, by place. Implemented for the rows of both databases.
pub(super) trait Cells {
    /// An integer of any width.
    fn int(&self, at: usize) -> Result<i64, Bad>;
    /// An integer or NULL.
    fn int_or_null(&self, at: usize) -> Result<Option<i64>, Bad>;
    /// A truth value or NULL.
    fn truth_or_null(&self, at: usize) -> Result<Option<bool>, Bad>;
    /// A text or NULL, as stored.
    fn text_or_null(&self, at: usize) -> Result<Option<&str>, Bad>;
    /// Bytes.
    fn bytes(&self, at: usize) -> Result<&[u8], Bad>;
    /// A UUID or NULL.
    fn uuid_or_null(&self, at: usize) -> Result<Option<Uuid>, Bad>;
}

/// Reads a row from left to right.
pub(super) struct Reader<'r, C> {
    pub(super) cells: &'r C,
    at: usize,
}

impl<'r, C: Cells> Reader<'r, C> {
    pub(super) fn new(cells: &'r C) -> Self {
        Self { cells, at: 0 }
    }

    /// A reader that begins at a later column.
    pub(super) fn from(cells: &'r C, at: usize) -> Self {
        Self { cells, at }
    }

    pub(super) fn next(&mut self) -> usize {
        self.at += 1;
        self.at - 1
    }

    pub(super) fn number<T: TryFrom<i64>>(&mut self, what: &'static str) -> Result<T, Bad> {
        let value = self.cells.int(self.next())?;
        T::try_from(value).map_err(|_| format!("{what} is {value}, which is out of range"))
    }

    pub(super) fn number_or_null<T: TryFrom<i64>>(&mut self, what: &'static str) -> Result<Option<T>, Bad> {
        let Some(value) = self.cells.int_or_null(self.next())? else { return Ok(None) };
        T::try_from(value).map(Some).map_err(|_| format!("{what} is {value}, which is out of range"))
    }

    /// An unsigned number that a peer may choose freely: see [`opaque`].
    pub(super) fn free(&mut self) -> Result<u64, Bad> {
        Ok(self.cells.int(self.next())?.cast_unsigned())
    }

    pub(super) fn truth(&mut self, what: &'static str) -> Result<bool, Bad> {
        self.truth_or_null()?.ok_or_else(|| format!("{what} is NULL"))
    }

    pub(super) fn truth_or_null(&mut self) -> Result<Option<bool>, Bad> {
        self.cells.truth_or_null(self.next())
    }

    pub(super) fn string_or_null(&mut self, what: &'static str) -> Result<Option<String>, Bad> {
        let Some(stored) = self.cells.text_or_null(self.next())? else { return Ok(None) };
        let text = original(stored).ok_or_else(|| format!("{what} is not a text that this program stored"))?;
        Ok(Some(text.into_owned()))
    }

    pub(super) fn text<const MAX: usize>(&mut self, what: &'static str) -> Result<Text<MAX>, Bad> {
        let text = self.string_or_null(what)?.ok_or_else(|| format!("{what} is NULL"))?;
        Text::new(text).map_err(|error| format!("{what}: {error}"))
    }

    pub(super) fn uuid(&mut self, what: &'static str) -> Result<Uuid, Bad> {
        self.cells.uuid_or_null(self.next())?.ok_or_else(|| format!("{what} is NULL"))
    }

    pub(super) fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], Bad> {
        let bytes = self.cells.bytes(self.next())?;
        bytes.try_into().map_err(|_| format!("{what} has {} bytes, not {N}", bytes.len()))
    }

    pub(super) fn format(&mut self) -> Result<(), Bad> {
        match self.cells.int(self.next())? {
            version if version == i64::from(FORMAT) => Ok(()),
            version => Err(format!("the row has format {version}, this version reads {FORMAT}: update this program")),
        }
    }

    /// `meeting, leg`.
    pub(super) fn leg(&mut self) -> Result<LegId, Bad> {
        Ok(LegId { meeting: MeetingId(self.uuid("meeting")?), leg: self.number("leg")? })
    }

    /// `boot, handle`.
    pub(super) fn place(&mut self) -> Result<(Option<BootId>, Option<Handle>), Bad> {
        let boot = self.cells.uuid_or_null(self.next())?.map(BootId);
        let handle = self.cells.int_or_null(self.next())?.map(|handle| Handle(handle.cast_unsigned()));
        Ok((boot, handle))
    }

    /// `mark_revision, mark_count, mark_digest`.
    pub(super) fn mark(&mut self) -> Result<Mark, Bad> {
        Ok(Mark {
            revision: self.number("mark_revision")?,
            count: self.number("mark_count")?,
            digest: Digest::from_bytes(self.array("mark_digest")?),
        })
    }
}

/// Columns of [`stored_leg`]; `l` is the control row, `k` its recovery key (may be missing).
pub(super) const LEG_COLUMNS: &str = "l.format_version, l.meeting, l.leg, l.domain, l.server, l.state, l.cause, \
     l.epoch, l.boot, l.handle, l.table_revision, l.mark_revision, l.mark_count, l.mark_digest, l.intent, \
     l.recover_first, l.quarantine, l.version, k.generation, k.number, k.title";
/// How many.
pub(super) const LEG_COLUMNS_COUNT: usize = 21;

/// Columns of [`marked`]; `l` is the control row.
pub(super) const MARK_COLUMNS: &str =
    "l.meeting, l.leg, l.boot, l.handle, l.mark_revision, l.mark_count, l.mark_digest";

/// Where a leg's content is of, and up to where it goes. None if not even the leg's name can be read.
pub(super) fn marked<C: Cells>(row: &C) -> Option<Marked> {
    let r = &mut Reader::new(row);
    let leg = r.leg().ok()?;
    let place = r.place().map(|(boot, handle)| boot.zip(handle));
    Some((leg, place.and_then(|place| Ok((place, r.mark()?)))))
}

/// A control row.
pub(super) fn stored_leg<C: Cells>(row: &C) -> Result<StoredLeg, Bad> {
    let r = &mut Reader::new(row);
    r.format()?;
    let leg = r.leg()?;
    let domain = DomainId(r.number("domain")?);
    let server = ServerId(r.number("server")?);
    let name = r.string_or_null("state")?.unwrap_or_default();
    let state = StoredState::from_name(&name).ok_or_else(|| format!("state {name:?} is not known"))?;
    let cause = r.number::<u8>("cause")?.into();
    let epoch = Epoch(r.number("epoch")?);
    let (boot, handle) = r.place()?;
    Ok(StoredLeg {
        leg,
        domain,
        server,
        state,
        cause,
        epoch,
        boot,
        handle,
        table_revision: r.number("table_revision")?,
        mark: r.mark()?,
        intent: r.number("intent")?,
        first: r.truth("recover_first")?,
        quarantine: r.string_or_null("quarantine")?,
        version: r.number("version")?,
        generation: r.number_or_null("generation")?.unwrap_or(0),
        number: Text::new(r.string_or_null("number")?.unwrap_or_default()).map_err(|e| format!("number: {e}"))?,
        title: Text::new(r.string_or_null("title")?.unwrap_or_default()).map_err(|e| format!("title: {e}"))?,
    })
}

/// The leg of a control row that could not be read, as far as it goes.
pub(super) fn name_of<C: Cells>(row: &C) -> String {
    let meeting = row.uuid_or_null(1).ok().flatten().map(|id| id.to_string());
    let meeting = meeting.or_else(|| row.text_or_null(1).ok().flatten().map(str::to_owned));
    let leg = row.int(2).map_or_else(|_| "?".to_owned(), |leg| leg.to_string());
    format!("{}/{leg}", meeting.as_deref().unwrap_or("?"))
}

/// The versions of a leg's row.
pub(super) struct Versions {
    pub(super) leg: LegId,
    pub(super) version: u64,
    /// The version that the last change of state made.
    pub(super) state_version: u64,
    /// Up to which numbers intents were done and pruned.
    pub(super) intents_pruned: u64,
}

/// Columns of [`versions`].
pub(super) const VERSION_COLUMNS: &str = "l.meeting, l.leg, l.version, l.state_version, l.intents_pruned";

/// Reads [`VERSION_COLUMNS`].
pub(super) fn versions<C: Cells>(row: &C) -> Result<Versions, Bad> {
    let r = &mut Reader::new(row);
    Ok(Versions {
        leg: r.leg()?,
        version: r.number("version")?,
        state_version: r.number("state version")?,
        intents_pruned: r.number("pruned intents")?,
    })
}

/// Columns of [`recovery_key`]. The first is NULL if the key is missing.
pub(super) const KEY_COLUMNS: &str = "k.meeting, k.leg, k.format_version, k.domain, k.server, k.secret, \
     k.generation, k.number, k.title, k.creator, k.creator_name, k.made_at_ms";

/// A recovery key whose columns begin at `at`.
pub(super) fn recovery_key<C: Cells>(row: &C, at: usize) -> Result<Option<RecoveryKey>, Bad> {
    if row.uuid_or_null(at)?.is_none() {
        return Ok(None);
    }
    let r = &mut Reader::from(row, at);
    let leg = r.leg()?;
    r.format()?;
    Ok(Some(RecoveryKey {
        leg,
        domain: DomainId(r.number("domain")?),
        server: ServerId(r.number("server")?),
        secret: Secret::new(r.array("secret")?),
        generation: r.number("generation")?,
        number: r.text("number")?,
        title: r.text("title")?,
        creator: r.text("creator")?,
        creator_name: r.text("creator_name")?,
        made_at_ms: r.free()?,
    }))
}

/// Columns of [`intent`].
pub(super) const INTENT_COLUMNS: &str = "i.meeting, i.leg, i.format_version, i.number, i.op, i.instance, \
     i.command_number";

/// An intent.
pub(super) fn intent<C: Cells>(row: &C) -> Result<Intent, Bad> {
    let r = &mut Reader::new(row);
    let leg = r.leg()?;
    r.format()?;
    let number = r.number("number")?;
    let op = Op::take(&mut Input::new(r.cells.bytes(r.next())?)).map_err(|error| format!("op: {error}"))?;
    let instance = r.cells.int_or_null(r.next())?.map(i64::cast_unsigned);
    let command = match (instance, r.number_or_null("command_number")?) {
        (Some(instance), Some(number)) => Some(CommandId { instance, number }),
        _ => None,
    };
    Ok(Intent { leg, number, op, command })
}

/// Columns of [`client_answer`].
pub(super) const ANSWER_COLUMNS: &str = "a.format_version, a.instance, a.number, a.meeting, a.code, a.detail, a.at_ms";

/// A client's answer.
pub(super) fn client_answer<C: Cells>(row: &C) -> Result<ClientAnswerRow, Bad> {
    let r = &mut Reader::new(row);
    r.format()?;
    Ok(ClientAnswerRow {
        command: CommandId { instance: r.free()?, number: r.number("number")? },
        meeting: MeetingId(r.uuid("meeting")?),
        code: ErrorCode(r.number("code")?),
        detail: r.string_or_null("detail")?.unwrap_or_default(),
        at_ms: r.free()?,
    })
}

/// A number that a peer chooses freely and that is never compared, in a signed column.
pub(super) fn opaque(value: u64) -> i64 {
    value.cast_signed()
}

/// A number that the database compares. [`super::judge::unsound`] has refused what does not fit.
pub(super) fn ordered(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
