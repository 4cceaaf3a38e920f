"""The connection to Apache Pulsar: receive, ack, nak, publish, dead-letter. The importer of pulsar."""
