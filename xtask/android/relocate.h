/* Applies the relocations of a library that the loader did not understand. */
void relocate(void *handle);
