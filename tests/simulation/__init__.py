"""The supervisor's real deciding code in a simulated world: one thread, a virtual clock, schedules made of seeds."""
