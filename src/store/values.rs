//! Writes as the values of a row, in the one order that both databases use.

use super::records::{Sink, Value};
use super::{NewLeg, StateWrite};
use crate::model::{ClientAnswerRow, Intent, IntentResult, RecoveryKey, StoredState};
use bytes::BytesMut;
use remeet_protocol::message::EndCause;
use remeet_protocol::wire::Wire;

/// A new leg: its row from `meeting` to `version`, then its key from `domain` on.
pub(super) fn put_new_leg(row: &mut impl Sink, new: &NewLeg) {
    let (leg, key) = (&new.row, &new.key);
    row.put_leg(leg.leg);
    row.put_u32(leg.domain.0);
    row.put_u32(leg.server.0);
    row.put_text(leg.state.name());
    row.put_u8(leg.cause.into());
    row.put_ordered(leg.epoch.0);
    row.put(Value::Uuid(leg.boot.map(|boot| boot.0)));
    row.put(Value::Big(leg.handle.map(|handle| handle.0.cast_signed())));
    row.put_ordered(leg.table_revision);
    row.put_ordered(leg.mark.revision);
    row.put_u32(leg.mark.count);
    row.put_bytes(&leg.mark.digest.bytes());
    row.put_ordered(leg.intent);
    row.put_truth(leg.first);
    row.put(Value::Text(leg.quarantine.as_deref()));
    row.put_ordered(leg.version);
    row.put_u32(key.domain.0);
    row.put_u32(key.server.0);
    put_key_parameters(row, key);
}

/// A recovery key, from `meeting` on.
pub(super) fn put_key(row: &mut impl Sink, key: &RecoveryKey) {
    row.put_leg(key.leg);
    row.put_u32(key.domain.0);
    row.put_u32(key.server.0);
    put_key_parameters(row, key);
}

fn put_key_parameters(row: &mut impl Sink, key: &RecoveryKey) {
    row.put_bytes(key.secret.expose());
    row.put_ordered(key.generation);
    row.put_text(key.number.as_str());
    row.put_text(key.title.as_str());
    row.put_text(key.creator.as_str());
    row.put_text(key.creator_name.as_str());
    row.put_opaque(key.made_at_ms);
}

/// A compare-and-set: leg, what is expected, what comes.
pub(super) fn put_state(row: &mut impl Sink, state: &StateWrite) {
    row.put_leg(state.leg);
    row.put_ordered(state.expect.version);
    row.put_text(state.expect.state.name());
    row.put_text(state.state.name());
    let cause = if state.state == StoredState::Ended { state.cause } else { EndCause::None };
    row.put_u8(cause.into());
    let accepted = state.accepted;
    row.put(Value::Big(accepted.map(|a| a.epoch.0.cast_signed())));
    row.put(Value::Uuid(accepted.map(|a| a.boot.0)));
    row.put(Value::Big(accepted.map(|a| a.handle.0.cast_signed())));
    row.put(Value::Big(accepted.map(|a| a.table_revision.cast_signed())));
}

/// An intent.
pub(super) fn put_intent(row: &mut impl Sink, intent: &Intent) {
    let mut op = BytesMut::new();
    intent.op.put(&mut op);
    row.put_leg(intent.leg);
    row.put_ordered(intent.number);
    row.put_text(intent.op.name());
    row.put_bytes(&op);
    row.put(Value::Big(intent.command.map(|command| command.instance.cast_signed())));
    row.put(Value::Big(intent.command.map(|command| command.number.cast_signed())));
}

/// A result.
pub(super) fn put_done(row: &mut impl Sink, done: &IntentResult) {
    row.put_leg(done.leg);
    row.put_ordered(done.number);
    row.put(Value::Int(Some(i32::from(done.code.0))));
}

/// A client's answer.
pub(super) fn put_answer(row: &mut impl Sink, answer: &ClientAnswerRow) {
    row.put_opaque(answer.command.instance);
    row.put_ordered(answer.command.number);
    row.put(Value::Uuid(Some(answer.meeting.0)));
    row.put(Value::Int(Some(i32::from(answer.code.0))));
    row.put_text(&answer.detail);
    row.put_opaque(answer.at_ms);
}
