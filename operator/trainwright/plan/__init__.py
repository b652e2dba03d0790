"""Pure decisions: `plan(Observed) -> Plan`. No clock, client, randomness or kopf in here; one small file per policy."""
