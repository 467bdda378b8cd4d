// Filled by the tests of the live log.
