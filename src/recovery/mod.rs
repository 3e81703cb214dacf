//! Pure: plan, leg states, back-fill merge, queues.
