pub(super) mod commit;
pub(super) mod batch;
pub(super) mod recover_ack;
pub(super) mod publish;
