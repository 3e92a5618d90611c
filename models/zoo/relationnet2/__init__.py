"""RelationNet++: boxes whose scores and sides attend to key points, corners and centres."""
