inline void trace(Vstreamed&, FILE*) {}
