"""The approvals stage: asks the manager by mail, takes the decision, tells what became of it, offers the appeal."""
