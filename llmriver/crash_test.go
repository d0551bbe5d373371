package llmriver_test

const childEnv = "LLMRIVER_TEST_CHILD"

func child() {}
